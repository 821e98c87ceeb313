# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""Many kinds of chat prompts made from plain texts, so that a chat model can write its own answers to train a tail on.

    python examples/chat_prompts.py stories.txt books.txt --count 6000 --output chat.jsonl --code code.txt
    tokmat own-text MODEL --prompts chat.jsonl stories.txt code.txt --shares 0.6 0.3 0.1 --output own.jsonl

No chat data is needed: passages, words and names come from the texts, functions and their purposes from Python's
standard library, numbers and the choice among the phrases below from --seed. The same texts, seed and Python give the
same prompts. --code also writes functions of the standard library, as documents to be continued. --kinds picks some of
the kinds, among them those that are not drawn otherwise: long passages to sum up or to find something in, questions of
fact, and sentences of another language (--foreign, one to a line) to be put into English.
"""

import argparse
import ast
import json
import os
import random
import re
import string
import sysconfig
from collections import Counter
from pathlib import Path

from trainer.data import END_OF_TEXT, load_documents

MODULES = (
    "textwrap statistics bisect heapq random shutil tempfile calendar difflib fnmatch glob fractions colorsys "
    "csv json string copy operator functools inspect ast base64 quopri pprint reprlib keyword linecache "
    "posixpath genericpath datetime ipaddress locale gettext getopt argparse configparser html/parser "
    "email/utils urllib/parse zipfile tarfile"
).split()

SUBJECTS = (
    "gravity|photosynthesis|inflation|vaccines|the water cycle|black holes|democracy|machine learning|"
    "the immune system|supply and demand|earthquakes|the French Revolution|evolution|blockchain|sleep|"
    "the solar system|fractions|probability|recycling|the Roman Empire|electric cars|compound interest|DNA|"
    "climate change|the internet|jazz|Renaissance painting|bees|volcanoes|the printing press|nuclear energy|"
    "magnets|rainbows|tides|yeast and bread|public libraries|maps|encryption|the scientific method|the Silk Road|"
    "coral reefs|antibiotics|batteries|glaciers|the stock market|chess|operating systems|databases|sound waves|"
    "the heart|the moon landing|friendship|habits|teamwork|meditation|budgeting"
).split("|")

PAIRS = (
    "cats|dogs;a lake|a river;TCP|UDP;a list|a tuple;plants|fungi;a simile|a metaphor;butter|margarine;"
    "weather|climate;a novel|a short story;trains|planes;stacks|queues;mass|weight;tea|coffee;cities|villages;"
    "Athens|Sparta;asteroids|comets;a virus|a bacterium;renting|buying a home;fables|fairy tales;"
    "oil paint|watercolour;solar power|wind power;a compiler|an interpreter;books|films;violins|guitars;"
    "crocodiles|alligators"
).split(";")

ROLES = (
    "a patient maths teacher|a museum guide|a ship's captain in the year 1750|a friendly librarian|a chef|a detective|"
    "a travel agent|a football coach|a doctor who explains things simply|a gardener|a news reporter|an old wizard|"
    "a job interviewer|a software engineer|a historian|a robot that has just woken up|a shopkeeper|a poet"
).split("|")

LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese", "Chinese", "Dutch")
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Omar", "Lin", "Maria", "Noah", "Priya", "Sam", "Yuki")
TONES = "friendly|formal|funny|sad|excited|polite but firm|mysterious|simple|dramatic".split("|")
THINGS = "apples|pencils|marbles|stamps|books|cookies|coins|shells|tickets|eggs|stickers|buttons|bottles|roses".split(
    "|"
)

# {p}: a passage. {s}: a sentence. {w1} to {w4}: words of one passage. {n1}, {n2}: names. {subject}, {role}, ...
PHRASES = {
    "continue": [
        "Continue this text:\n\n{p}",
        "What happens next? Go on with the story in the same style.\n\n{p}",
        "Here is the beginning of a text. Write the next two paragraphs.\n\n{p}",
    ],
    "summarise": [
        "Summarise the following text in {few} sentences.\n\n{p}",
        "{p}\n\nTL;DR:",
        "What is the main point of this passage?\n\n{p}",
        "Write a summary of the text below for a busy reader.\n\nText: {p}\n\nSummary:",
        "Give a title and a one-sentence summary for this text:\n\n{p}",
    ],
    "retell": [
        "Retell this in your own words:\n\n{p}",
        "Rewrite the following text so that a six-year-old understands it.\n\n{p}",
        "Rewrite this passage in a {tone} tone.\n\n{p}",
        "Tell the same story from the point of view of {n1}.\n\n{p}",
        "Correct any mistakes in this paragraph and make it clearer: {p}",
    ],
    "question": [
        "Read the passage and answer the question.\n\nPassage: {p}\n\nQuestion: What does it say about the {w1}?",
        "{p}\n\nBased on this text, who or what is mentioned, and what do they do?",
        "Write three questions that a teacher could ask about this text, with answers.\n\n{p}",
        "{p}\n\nWhat can we learn from this?",
        "Is the mood of the following passage happy, sad or neutral? Explain why.\n\n{p}",
    ],
    "retrieval": [
        "Context:\n[1] {p}\n[2] {q}\n\nUsing only the context, answer: what is said about {w1} and {w2}?",
        "Answer the question with the help of these documents.\n\nDocument 1: {p}\n\nDocument 2: {q}\n\nQuestion: "
        "Where does the word {w1} matter, and why?\nAnswer:",
        "Context: {doc}\n\nQuestion: What is {name} for?\nAnswer:",
        "Which of these two passages is about {w1}? Quote the sentence that shows it.\n\nA: {p}\n\nB: {q}",
    ],
    "extract": [
        "List all the people, animals and places in this text as bullet points.\n\n{p}",
        "Extract the verbs from this sentence: {s}",
        "Give {few} keywords for the following text.\n\n{p}",
        "Turn this text into a numbered list of events.\n\n{p}",
        "Find the names in the text and return them as a JSON list.\n\n{p}",
    ],
    "story": [
        "Write a short story about {n1} and a {w1}.",
        "Write a story that contains the words {w1}, {w2} and {w3}.",
        "Tell me a bedtime story in which {n1} meets {n2} and they find a {w1}.",
        "Write the opening of a {tone} novel that begins with this sentence: {s}",
        "Write a dialogue between {n1} and {n2} about the {w1}.",
    ],
    "poem": [
        "Write a poem about {w1} and {w2}.",
        "Write a haiku about {subject}.",
        "Write a rhyming poem of eight lines in which {n1} looks for the {w1}.",
        "Write a {tone} song about {subject}.",
    ],
    "letter": [
        "Write a {tone} letter from {n1} to {n2} about the {w1}.",
        "Write a short email to my manager {n1}: I will be late because of {w1}.",
        "Draft an email that invites colleagues to a talk about {subject}.",
        "Write a letter of complaint about a broken {w1}. Keep it {tone}.",
        "Reply to this message in a {tone} way: \"{s}\"",
        "Write a social media post about {subject} with a catchy first line.",
    ],
    "explain": [
        "Explain {subject} to a child.",
        "What is {subject}?",
        "How does {subject} affect our daily life?",
        "Give me {few} interesting facts about {subject}.",
        "Write a short essay about {subject}.",
        "Why is {subject} important? Give reasons and examples.",
        "What does the word \"{w1}\" mean? Use it in two sentences.",
        "Who discovered or shaped {subject}, and when?",
    ],
    "compare": [
        "What is the difference between {one} and {other}?",
        "Compare {one} with {other}. Use a list.",
        "What are the advantages and disadvantages of {one} over {other}?",
        "Which is better, {one} or {other}? Give your reasons.",
    ],
    "list": [
        "Give me {few} ideas for a party about {subject}.",
        "Make a step-by-step plan to learn about {subject} in a week.",
        "List {few} books or films about {subject} and say what each is about.",
        "Make a table with three columns about {subject}.",
        "Suggest {few} names for a shop that sells {things}.",
        "Write a recipe that uses {w1}.",
    ],
    "role": [
        "You are {role}. Introduce yourself and tell me about {subject}.",
        "Pretend to be {role}. I ask you: what do you think about {w1}?",
        "Act as {role} and give me advice about {subject}.",
        "I want you to be {role}. My first sentence is: \"{s}\"",
    ],
    "arithmetic": [
        "{n1} has {a} {things}. {n2} gives {n1} {b} more. How many {things} does {n1} have now?",
        "{n1} buys {c} boxes with {d} {things} each and gives {c} {things} to {n2}. How many are left?",
        "A train travels {speed} km per hour for {c} hours. How far does it go? Explain each step.",
        "{n1} is {d} years old. {n2} is {c} years older. How old will {n2} be in {few} years?",
        "If {c} {things} cost {money} dollars, how much do {e} {things} cost? Think step by step.",
        "What is {a} + {b}? And what is {a} times {c}?",
        "{n1} reads {d} pages on Monday, twice as many on Tuesday and {b} on Wednesday. How many are that in all?",
        "A shop sells {a} {things} in the morning and half as many in the afternoon. Each costs {c} dollars. How much "
        "money does the shop take? Show your work.",
        "A rectangle is {a} cm long and {d} cm wide. What are its area and its perimeter?",
        "{n1} wants to save {b} dollars and saves {c} dollars a week. How many weeks does it take?",
    ],
    "code": [
        "Write a Python function that does this: {purpose}",
        "Write a Python function `{name}`. {purpose} Add a docstring and an example.",
        "Explain what this Python code does:\n\n```python\n{code}\n```",
        "Write a unit test for this function:\n\n```python\n{code}\n```",
        "Add type hints and comments to this code:\n\n```python\n{code}\n```",
        "How do I use `{name}` in Python? Show a short example.",
        "Write a Python program that asks for {few} numbers and prints their {statistic}.",
        "Write a function in Python that counts how often each {unit} occurs in a string.",
        "Write a Python class for a {w1} with {few} methods.",
        "Complete this function:\n\n```python\n{head}",
        "Write a SQL query that lists the {things} that each customer bought, newest first.",
    ],
    "translate": [
        "Translate into {language}: {s}",
        "How do you say \"{w1}\" and \"{w2}\" in {language}?",
        "Translate the following sentence to {language} and explain the grammar.\n\n{s}",
        "Rephrase this sentence in plain English: {s}",
    ],
    "several": [
        "Read the text below. First say who it is about. Then give its mood in one word. Last, write one more "
        "sentence that fits.\n\n{p}",
        "I am writing about {subject}. Please give me an outline with {few} points. Each point should have one "
        "sentence. End with a question for the reader.",
        "Answer in exactly {few} sentences and do not use the word \"{w1}\": what is {subject}?",
        "Write a paragraph about {w1}. Then translate its first sentence into {language}.",
        "Choose the best answer and explain it. What is most closely related to {subject}?\nA) {w1}\n"
        "B) {one}\nC) {w2}",
    ],
}  # fmt: skip
# Drawn where --kinds names them. {l}: a long passage. {fact}: a name of several words.
FURTHER = {
    "long-summarise": [
        "Summarize: {l}",
        "Summarize the following text.\n\n{l}",
        "{l}\n\nTL;DR:",
        "{l}\n\nWhat is this about? Give the main points.",
    ],
    "long-retrieval": [
        "{l}\n{q}\n{p}\nWhat is said about {w1} and {w2}?",
        "{p} {l}\n{q}\nWho or what is {fact}?",
        "{q}\n{l}\nWhen did this happen, and where?",
        "{l}\n{p}\nWhat is the {w1}?",
        "Answer the question from the text.\n\n{l}\n\nQuestion: Why is there a {w1}?\nAnswer:",
    ],
    "fact": [
        "Who is {fact}?",
        "What is {fact}?",
        "Where is {fact}?",
        "When was {fact} first known?",
        "What is {fact} known for?",
        "Who wrote about {fact}?",
        "What is the difference between {fact} and {other}?",
        "How many people know {fact}?",
        "What is the meaning of {w1} in {fact}?",
        "Where does the word {w1} come from?",
    ],
    "foreign": [
        "Translate {foreign} to English: {sentence}",
        "Translate this sentence from {foreign} into English.\n\n{sentence}",
        "What does this mean in English? {sentence}",
    ],
}  # fmt: skip
WEIGHTS = {"code": 1.5, "arithmetic": 1.5, "summarise": 1.5, "explain": 1.5, "several": 0.7, "poem": 0.7}

SYSTEMS = ("Answer briefly.", "You are a helpful assistant.", "You are a careful teacher.", "Answer in a {tone} tone.")
COMMON = set("that this with have from they were what when there which their would could about them then than".split())
COMMON |= set("into only some your been more said very will over upon after before where while because these".split())
FACT = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: (?:of |the |de |and )?[A-Z][a-z]+){1,3}\b")
NOUN = re.compile(
    r"\b(?:the|an?|his|her|their|my) (?:[a-z]+ )?([a-z]{4,})"
    r"(?=[.,;!?]| (?:and|of|in|to|was|is|had|on|that|who|for|at)\b)"
)


class Material:
    """What the phrases are filled with: pieces of `texts`, functions of the standard library, and `sentences` of
    another language, whose name is `foreign`."""

    def __init__(self, texts: list[str], draw: random.Random, sentences: list[str] | None = None, foreign: str = ""):
        if not texts:
            raise ValueError("texts: none of them has 60 words")
        self.texts, self.draw, self.functions = texts, draw, functions()
        self.sentences, self.foreign = sentences or [], foreign
        inner = Counter(name for text in texts for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,9}\b", text))
        words = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,}\b", text))
        # A name is written in lower case hardly ever.
        self.names = [name for name, n in inner.most_common(400) if words[name.lower()] * 20 < n][:150]
        self.names += [name for name in NAMES if name not in self.names]
        self.facts = sorted({fact for text in texts for fact in FACT.findall(text)}) or self.names

    def passage(self, low: int = 30, high: int = 160) -> str:
        """Whole sentences from anywhere in a text, `low` to `high` words.

        Raises:
            ValueError: the texts hardly have any.
        """
        for _ in range(1000):
            text = self.draw.choice(self.texts)
            start = self.draw.randrange(max(len(text) - 8 * high, 1))
            sentences = re.split(r"(?<=[.!?\"])\s+(?=[A-Z\"])", text[start : start + 16 * high])
            kept = [] if len(sentences) < 3 else sentences[start > 0 : -1]
            size, result = self.draw.randint(low, high), []
            while kept and sum(len(part.split()) for part in [*result, kept[0]]) <= size:
                result.append(kept.pop(0))
            passage = re.sub(r"\s+", " ", " ".join(result)).strip()
            if len(passage.split()) >= low and len(self.words(passage)) >= 4:
                return passage
        raise ValueError(f"texts: no {low} words of whole English sentences were found in them")

    def words(self, passage: str) -> list[str]:
        """Its words in an order drawn at random, those that look like nouns first."""
        words, nouns = sorted(set(re.findall(r"\b[a-z]{4,}\b", passage)) - COMMON), set(NOUN.findall(passage))
        return sorted(self.draw.sample(words, len(words)), key=lambda word: word not in nouns)

    def fill(self, phrase: str) -> str:
        draw, passage = self.draw, self.passage()
        one, other = draw.sample(draw.choice(PAIRS).split("|"), 2)
        name, purpose, code, doc = draw.choice(self.functions)
        sentences = [part for part in re.split(r"(?<=[.!?])\s+", passage) if 5 <= len(part.split()) <= 30]
        values = {"p": passage, "q": self.passage(20, 80), "s": draw.choice(sentences or [passage])}
        values |= {f"w{i + 1}": word for i, word in enumerate(self.words(passage)[:4])}
        values |= {f"n{i + 1}": word for i, word in enumerate(draw.sample(self.names, 2))}
        values |= {"subject": draw.choice(SUBJECTS), "one": one, "other": other, "role": draw.choice(ROLES)}
        values |= {"language": draw.choice(LANGUAGES), "tone": draw.choice(TONES), "things": draw.choice(THINGS)}
        values |= {"few": draw.choice(("two", "three", "four", "five", 3, 5)), "a": draw.randint(12, 98)}
        values |= {"b": draw.randint(100, 400), "c": draw.randint(3, 9), "d": draw.randint(11, 40)}
        values |= {"e": draw.randint(10, 30), "speed": 10 * draw.randint(4, 20), "money": draw.randint(2, 60)}
        values |= {"name": name, "purpose": purpose, "code": code, "doc": doc, "unit": draw.choice(("word", "letter"))}
        values |= {"statistic": draw.choice(("sum", "mean", "maximum", "product", "median"))}
        values |= {"head": "\n".join(code.splitlines()[: draw.randint(1, 4)]) + "\n"}
        used = {field for _, field, *_ in string.Formatter().parse(phrase) if field}
        if "l" in used:  # drawn where it is used alone: what the other phrases draw stays the same for a seed
            values["l"] = self.passage(200, 600)
        if "fact" in used:
            values["fact"] = draw.choice(FACT.findall(values.get("l", "")) or self.facts)
        if "sentence" in used:
            values |= {"sentence": draw.choice(self.sentences), "foreign": self.foreign}
        return phrase.format(**{name: values[name] for name in used})

    def prompt(self, kinds: list[str] | None = None) -> dict:
        kinds = list(PHRASES) if kinds is None else kinds
        kind = self.draw.choices(kinds, [WEIGHTS.get(kind, 1) for kind in kinds])[0]
        content = self.fill(self.draw.choice((PHRASES | FURTHER)[kind]))
        messages = [{"role": "user", "content": content}]
        if self.draw.random() < 0.1:
            messages.insert(0, {"role": "system", "content": self.fill(self.draw.choice(SYSTEMS))})
        return {"messages": messages, "kind": f"chat-{kind}"}


def functions() -> list[tuple[str, str, str, str]]:
    """(name, first line of its docstring, source of at most 25 lines, docstring) of functions in the library."""
    found, library = [], Path(sysconfig.get_paths()["stdlib"])
    for module in MODULES:
        file = library / f"{module}.py"
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        for node in ast.walk(ast.parse(source)):
            doc = isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node)
            if doc and len(doc.split()) >= 5:
                lines = source.split("\n")[node.lineno - 1 : node.end_lineno]
                code = "\n".join(line[node.col_offset :] for line in lines[:25])
                purpose = " ".join(doc.split("\n\n")[0].split())
                found.append((node.name, purpose, code, doc[:800]))
    return found


def code_documents() -> list[str]:
    """Functions and classes of the standard library, the first 60 lines of each."""
    found, library = [], Path(sysconfig.get_paths()["stdlib"])
    for file in sorted(library.glob("*.py")) + sorted(library.glob("[a-z]*/*.py")):
        if {"site-packages", "test", "tests", "idlelib", "encodings"}.isdisjoint(file.parts):
            source = file.read_text(encoding="utf-8", errors="ignore")
            for node in ast.parse(source).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.end_lineno - node.lineno >= 8:
                    found.append(
                        "\n".join(source.split("\n")[node.lineno - 1 : min(node.end_lineno, node.lineno + 59)])
                    )
    return found


def write(text: str, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", help='sources as for tokmat train: text files, folders, "builtin", ...')
    parser.add_argument("--count", type=int, default=4000, help="prompts")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl file of prompts")
    parser.add_argument("--code", type=Path, help="a text file of the standard library's functions")
    parser.add_argument("--kinds", nargs="+", choices=[*PHRASES, *FURTHER], help="default: " + " ".join(PHRASES))
    parser.add_argument("--foreign", nargs=2, metavar=("LANGUAGE", "FILE"), help="German german.txt")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if "foreign" in (args.kinds or []) and args.foreign is None:
        parser.error("--kinds foreign needs --foreign LANGUAGE FILE")
    foreign, path = args.foreign or ("", None)
    sentences = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line] if path else []
    draw = random.Random(args.seed)
    texts = []  # of each source as many, or all
    for source in args.texts:
        documents = [text for text in load_documents(source)["text"] if len(text.split()) >= 60]
        texts += draw.sample(documents, min(len(documents), 2000))
    try:
        material, prompts = Material(texts, draw, sentences, foreign), {}  # as keys: none twice
        while len(prompts) < args.count:
            prompts[json.dumps(material.prompt(args.kinds), ensure_ascii=False)] = None
    except ValueError as error:
        raise SystemExit(f"chat_prompts: {error}") from error
    write("".join(f"{prompt}\n" for prompt in prompts), args.output)
    if args.code is not None:
        write("".join(f"{code}\n{END_OF_TEXT}\n" for code in code_documents()), args.code)


if __name__ == "__main__":
    main()
