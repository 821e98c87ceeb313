#!/bin/bash
# Every number that README.md and docs/ show, each printed by the command that the text names beside it.
#
#     bash benchmarks/figures.sh stories-train.txt stories-valid.txt plays.txt runs
#
# Half a day on two idle CPU cores with bf16; what is finished is not done again. Needs pip install -e ".[dev,demo,eval]".
set -euo pipefail
train=$1 valid=$2 plays=$3 output=$4
here=$(cd "$(dirname "$0")" && pwd)
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
mkdir -p "$output"

# The studies, and the models that the rest looks at: docs/studies/
tokmat reproduce --budget full --data "$train" --held-out "$valid" --dialogue "$plays" --output "$output/studies"
models=$output/studies/models

# The README's table, its page with samples, and what lm_eval says
tokmat evaluate "$models/base" "$models/base-1" "$models/tokmat" "$models/tokmat-1" --baseline "$models/ar-longer" \
    --judge "$models/judge" --data "$valid" --tail-length 8 --output "$output/evaluate"
for name in base tokmat ar-longer; do
    lm_eval --model hf --model_args "pretrained=$models/$name,trust_remote_code=True" --tasks tokmat_stories \
        --include_path "$here/lm_eval" --device cpu --batch_size 8 | tee "$output/lm_eval-$name.txt"
done

# docs/LOOKAHEAD.md
bash "$here/lookahead.sh" "$train" "$valid" "$output/lookahead"

# Speed and memory: nothing else may run on the machine
python "$here/decode.py" --new-tokens 40 --repeats 3 | tee "$output/decode.txt"
python "$here/decode.py" --tail-lengths 1,4,8,16,32 --rules guided,stable,verified,static --dtypes bf16 --batches 1,8 \
    --prefixes 64,768 --new-tokens 16 --repeats 2 | tee "$output/decode-rules.txt"
python "$here/decode.py" --tail-lengths 1,8 --rules verified --dtypes bf16 --batches 1,8 --prefixes 64 \
    --new-tokens 40 --repeats 3 | tee "$output/decode-verified.txt"
python "$here/train.py" --steps 10 --repeats 3 | tee "$output/train.txt"

# What the demo writes, the picture of a tail, and docs/SETTINGS.md
tokmat demo --output-dir "$output/demo-model"
python "$here/../examples/picture_tail.py" "$output/demo-model" "Return a list of" --tail-length 8 --steps 14 \
    --output "$output/tail.png"
python "$here/../examples/show_settings.py" "$output/demo-model" "This function returns" --output "$output/settings.md"
