#!/usr/bin/env bash
# A tail for SmolLM2-135M-Instruct, from plain texts to an adapter: what checkpoints/smollm2-135m-instruct-tail is.
#
#     bash benchmarks/smollm2_tail.sh FOLDER_OF_TEXTS runs/smollm2-tail      (make smollm2-tail TEXTS=FOLDER)
#
# FOLDER_OF_TEXTS holds tinystories-train.txt, books-train.txt, fables-train.txt and storybooks-train.txt, documents
# separated by lines of <|endoftext|>; for the last part also encyclopedia.txt (benchmarks/wikitext.py writes one),
# dictionary.txt, of the same form, and german.txt, a sentence to a line. Every step goes on where it was interrupted.
# The adapter in the repository saw the first 8,192 answers, of which loops were kept up to a quarter of the rows. Made
# for a GPU: writing took three minutes and training four and a half on an H200 that trained two other models at once;
# on two cores it is a matter of days, and ROWS=4 (of a step) gives most of it in hours.
set -euo pipefail
texts=$1 out=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source=models/smollm2-135m-instruct
files=("$texts"/{tinystories,books,fables,storybooks}-train.txt)
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
mkdir -p "$out"

[ -f "$out/chat.jsonl" ] ||
    python examples/chat_prompts.py "${files[@]}" --count 20000 --output "$out/chat.jsonl" --code "$out/code.txt"
tokmat own-text "$source" --prompts "$out/chat.jsonl" "${files[@]}" "$out/code.txt" builtin \
    --shares 0.6 0.1 0.1 0.06 0.02 0.08 0.04 --prompt-tokens 8 16 32 64 128 --texts 24000 --max-new-tokens 192 \
    --batch-size "${BATCH:-1024}" --output "$out/own.jsonl"
[ -f "$out/converted/config.json" ] || tokmat convert "$source" "$out/converted" --tail-adapter-rank 24
[ -f "$out/tail/config.json" ] ||
    tokmat train --model "$out/converted" --train tail --data "$out/own.jsonl" --output-dir "$out/tail" \
        --max-steps 493 --per-device-train-batch-size "${ROWS:-48}" --per-device-eval-batch-size 32 --block-size 320 \
        --learning-rate 1e-3 --logging-steps 20 --save-steps 100 --eval-steps 100000 --validation-fraction 0.01 \
        --tail-metrics 0 --resume-from-checkpoint last
# What the adapters of keys and values do, the others do without them: 2.17 tokens a pass with them, 2.19 without
# (benchmarks/tail_accuracy.py), and a fifth less of what adapters cost.
[ -f "$out/kept/config.json" ] ||
    python benchmarks/tail_rank.py "$out/tail" "$out/kept" 24 --modules '.*(?<![kv]_proj)' --beside "$source"
# It learned on from what it knew least: long prompts, and translations into English. Rows of 1,024 tokens, so that long
# prompts are whole, with more tails in each; 8.5 s a step on two cores with AMX. The adapter in the repository took its
# first 75 steps on the first 1,900 answers, half of whose rows loop, at a constant rate.
last=$out/kept
if [ -f "$texts/german.txt" ]; then
    prompts=("$texts"/{encyclopedia,dictionary,books-train,storybooks-train}.txt)
    [ -f "$out/further.jsonl" ] ||
        python examples/chat_prompts.py "${prompts[@]}" --kinds long-summarise long-retrieval fact foreign \
            --foreign German "$texts/german.txt" --count 12000 --output "$out/further.jsonl"
    tokmat own-text "$source" --prompts "$out/further.jsonl" "$out/chat.jsonl" "${prompts[0]}" "$out/code.txt" \
        "${files[0]}" self --shares 0.6 0.17 0.05 0.06 0.04 0.08 --prompt-tokens 16 32 48 64 --texts 2880 \
        --max-new-tokens 160 --max-prompt-tokens 850 --batch-size 64 --output "$out/further-own.jsonl"
    last=$out/further
    [ -f "$last/config.json" ] ||
        tokmat train --model "$out/kept" --train tail --data "$out/further-own.jsonl" --loop-share 0.4 \
            --output-dir "$last" --max-steps 315 --per-device-train-batch-size 4 --block-size 1024 \
            --parallel-tails 96 --learning-rate 4e-4 --lr-scheduler-type cosine --warmup-steps 8 --logging-steps 10 \
            --save-steps 40 --eval-steps 100000 --validation-fraction 0.01 --tail-metrics 0 \
            --resume-from-checkpoint last
fi
echo "The adapter is $last/tail_adapter.safetensors; put it on the source again:"
echo "tokmat attach $source $last ATTACHED"
