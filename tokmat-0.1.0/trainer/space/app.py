# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""The page: gradio's settings, and one component of ours, which plays a whole run in the browser."""

from pathlib import Path

import gradio as gr

from .. import recipes
from .runs import COMMITS, LONGEST_PROMPT, LONGEST_TAIL, MOST_NEW_TOKENS, SCHEDULES, Duel

HERE = Path(__file__).parent
RUNS_AT_ONCE = 2
WAITING = 20  # runs in the queue; more are refused
INTRODUCTION = """# Watch text mature

A *Token Maturation* model refines a **liquid tail** of vectors, and each becomes a token only when it reaches the
front. Committed text is dark; the tail behind it is coloured by maturity, and shows the token that each vector is
nearest to. A model of {size:.1f} million parameters that has read children's stories; [paper](https://arxiv.org/abs/2601.04854).
"""
RULES = "front: one a step; stable: what has settled; verified: drafts of the tail, checked"
THEME = gr.themes.Base(
    primary_hue="emerald",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],  # gradio's own come from elsewhere
    font_mono=["ui-monospace", "monospace"],
).set(
    # Gradio's own are too pale to be read by everybody.
    button_primary_background_fill="#0b6e4f",
    button_primary_background_fill_hover="#095c42",
    button_primary_background_fill_dark="#5fd39a",
    button_primary_background_fill_hover_dark="#7bdcab",
    button_primary_text_color_dark="#08130e",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    slider_color="#0b6e4f",
    slider_color_dark="#5fd39a",
)
STYLE = """
.gradio-container { max-width: 80rem !important; margin: 0 auto !important; }
#player .html-container { padding: 3px !important; }
#write { align-self: flex-end; min-height: 3rem; }
"""


def player(value: dict) -> gr.HTML:
    """Plays what `Duel.run` returns; its value is that, or {"error": a sentence}."""
    # Not a class of our own: gradio would write a stub of it beside this file.
    return gr.HTML(
        value,
        html_template=_read("player.html"),
        css_template=_read("player.css"),
        js_on_load=_read("player.js"),
        apply_default_css=False,
        elem_id="player",
    )


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def build(duel: Duel) -> gr.Blocks:
    """The page for two models; it begins with a run of theirs, halfway through."""

    def watch(prompt, new_tokens, tail_length, guidance, embryo_norm, history_noise, schedule, commit):
        settings = {"guidance_scale": guidance, "embryo_norm": embryo_norm, "history_noise": history_noise}
        settings |= {"tail_length": tail_length, "schedule": schedule, "commit": commit}
        try:
            return duel.run(prompt, new_tokens, **settings)
        except ValueError as error:
            return {"error": str(error)}

    first = duel.run(recipes.STORY_PROMPTS[-1], recipes.PAGE_NEW_TOKENS, tail_length=8)
    first["at"] = len(first["steps"]) // 3
    with gr.Blocks(title="Token Maturation", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION.format(size=duel.tokmat.num_parameters() / 1e6))
        with gr.Row():
            prompt = gr.Textbox(
                recipes.STORY_PROMPTS[-1], label="Prompt", max_length=LONGEST_PROMPT, scale=5, min_width=280
            )
            write = gr.Button("Write", variant="primary", scale=1, min_width=120, elem_id="write")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                watched = player(first)
            with gr.Column(scale=1, min_width=280):
                settings = [
                    gr.Slider(1, MOST_NEW_TOKENS, recipes.PAGE_NEW_TOKENS, step=1, label="New tokens"),
                    gr.Slider(1, LONGEST_TAIL, 8, step=1, label="Tail length", info="tail_length, K: 1 is no delay"),
                    gr.Slider(0, 5, 1, step=0.25, label="Guidance", info="guidance_scale: 1 is off"),
                    gr.Slider(0, 2, 0.1, step=0.1, label="Embryo norm", info="embryo_norm: of fresh vectors, in R"),
                    gr.Slider(0, 1, 0, step=0.05, label="History noise", info="history_noise: on what is committed"),
                    gr.Radio(
                        list(SCHEDULES),
                        value="linear",
                        label="Schedule",
                        info="how maturity falls from the front to the back",
                    ),
                    gr.Radio(list(COMMITS), value="front", label="Commit rule", info=RULES),
                ]
        gr.on(
            [write.click, prompt.submit],
            watch,
            [prompt, *settings],
            watched,
            concurrency_limit=RUNS_AT_ONCE,
            api_name="watch",
            trigger_mode="once",
        )
    page.queue(max_size=WAITING)
    return page


def launch(**options) -> tuple[gr.Blocks, str]:
    """Serve the page on this machine alone, unless GRADIO_SERVER_NAME or `options` say otherwise.

    Args:
        options: for gradio's `launch`.

    Returns:
        The page and its address, once the server has ended, or at once with `prevent_thread_lock`.
    """
    page = build(Duel.from_the_box())
    _, address, _ = page.launch(theme=THEME, css=STYLE, ssr_mode=False, footer_links=[], **options)
    return page, address
