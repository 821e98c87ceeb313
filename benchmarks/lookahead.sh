#!/bin/bash
# Every number of docs/LOOKAHEAD.md: trains a baseline, turns it into a TokMat model, trains that with each idea for the
# tail in turn, and evaluates all of them.
#
#     bash benchmarks/lookahead.sh stories-train.txt stories-valid.txt runs/lookahead
#
# Some two hours on two idle CPU cores with bf16. What is finished is not done again.
set -euo pipefail
train=$1 valid=$2 output=$3
here=$(cd "$(dirname "$0")" && pwd)
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
mkdir -p "$output/models" "$output/results"

fit() { # NAME STEPS LEARNING_RATE flags...
    local name=$1 steps=$2 rate=$3
    shift 3
    [ -f "$output/models/$name/config.json" ] && return
    tokmat train --output-dir "$output/models/$name" --resume-from-checkpoint last --max-steps "$steps" \
        --learning-rate "$rate" --eval-steps "$steps" --logging-steps 50 --validation-data "$valid" "$@"
}
judge() { # NAME
    [ -f "$output/results/$1/results.json" ] && return
    tokmat evaluate "$output/models/$1" --data "$valid" --judge "$output/models/ar" --tail-length 8 \
        --mauve-continuations 0 --output "$output/results/$1"
}
idea() { # NAME flags...: 250 steps from the common base
    local name=$1
    shift
    fit "$name" 250 4e-4 --model "$output/models/base" --context-negatives 2 --film-scope tail "$@"
    judge "$name"
}

fit ar 1500 2e-3 --objective ar --backbone small --data "$train"
[ -f "$output/models/start/config.json" ] || tokmat convert "$output/models/ar" "$output/models/start"
fit base 600 6e-4 --model "$output/models/start" --context-negatives 2 --clean-probability 1 --film-scope tail \
    --data "$train"

idea paper --data "$train" --clean-probability 0.5
idea parallel --data "$train" --look-ahead --parallel-tails 16 --parallel-slots 0 --maturation simulated
idea rollout-16 --data "$train" --look-ahead --parallel-tails 16 --parallel-slots 0
idea rollout --data "$train" --look-ahead

own=$output/own.txt
[ -f "$own" ] || python "$here/../examples/own_text.py" "$output/models/rollout-16" --data "$train" --texts 4096 --output "$own"
head -c 2000000 "$train" > "$output/some.txt"
idea own-mixed --look-ahead --parallel-tails 16 --parallel-slots 0 --data "$output/some.txt" "$own"
idea own-half --look-ahead --parallel-tails 16 --parallel-slots 0 --data "$train" --tail-data "$own"
idea own-quarter --look-ahead --data "$train" --tail-data "$own" --tail-share 0.25

python "$here/multi_token_heads.py" "$output/models/base" --data "$train" --held-out "$valid"
python "$here/picture_lookahead.py" "$output/results" --output "$output"
python "$here/decode.py" --model "$output/models/own-quarter" --baseline "$output/models/ar" --data "$valid" \
    --tail-lengths 1,8 --rules verified,guided --batches 1 --prefixes 16 --new-tokens 100 --prompts 8
