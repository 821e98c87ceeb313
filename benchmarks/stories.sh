#!/usr/bin/env bash
# The models in the box, from plain stories: checkpoints/tokmat-stories and its autoregressive twin, checkpoints/ar-stories.
#
#     bash benchmarks/stories.sh FOLDER_OF_TEXTS runs/stories      (make stories TEXTS=FOLDER)
#
# FOLDER_OF_TEXTS holds tinystories-train.txt and tinystories-valid.txt, documents separated by lines of <|endoftext|>.
# Every step goes on where it was interrupted; all draws come from seeds below. About eleven hours on two cores; where they have
# instructions for bfloat16, the rounds of 1,000 and 2,400 steps took 23 and 65 minutes of one core.
#
# 1 ar       a transformer, trained with cross-entropy; twin-long: the same for longer, the autoregressive twin; and the
#            reference, which is that twin, converted exactly
# 2 round1 .. round7: where no text may end the model writes on, and is then taught there what the reference would say
#            without repeated phrases; in rows of stories it follows the reference as it is. middle: of the weights of
#            the fifth and the third; front: of the last two
# 3 own      what the model writes by itself; tail: adapters, which act in the tail alone, learn to foresee it, once
#            beside middle and then on beside front; longer-tail, longest-tail: the same for longer, on two and three times
#            the texts; wide-tail, widest-tail: on eight times as many that differ; roomy-tail: with adapters of three times the
#            rank, of which narrow keeps what matters most
# 4 judge    of another seed, and judge-long, the same for longer: to compare texts by
set -euo pipefail
texts=$1 out=$2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_TOP_PAD_=268435456
# For trials of the machinery: SHARE=0.01 takes a hundredth of the steps, BACKBONE=tiny a smaller model; LOOP_SHARE=1 lets its
# tail learn from what such a model writes.
steps() { python3 -c "print(max(2, round($1 * ${SHARE:-1})))"; }
text=(--data "$texts/tinystories-train.txt" --validation-data "$texts/tinystories-valid.txt" --block-size 256)
saving=(--save-steps "$(steps 100)" --eval-steps "$(steps 1000)" --resume-from-checkpoint last)
mkdir -p "$out"

train() { # FOLDER, then arguments of tokmat train
    local folder=$out/$1
    shift
    [ -f "$folder/config.json" ] || tokmat train --output-dir "$folder" "${saving[@]}" "$@"
}

train ar --objective ar "${text[@]}" --backbone "${BACKBONE:-small}" --vocab-size 4096 --max-steps "$(steps 1000)" --learning-rate 2e-3
train twin --objective ar "${text[@]}" --model "$out/ar" --max-steps "$(steps 300)" --learning-rate 6e-4
train twin-long --objective ar "${text[@]}" --model "$out/twin" --max-steps "$(steps 1620)" --learning-rate 1e-3 --seed 4
[ -f "$out/reference/config.json" ] || tokmat convert "$out/twin-long" "$out/reference"
write() { # MODEL FILE, then arguments of tokmat own-text
    local model=$out/$1 file=$out/$2
    shift 2
    tokmat own-text "$model" --prompts "$texts/tinystories-train.txt" --add-bos --max-new-tokens 224 --batch-size 128 \
        --dtype float32 --output "$file" "$@"
}
endless() { # MODEL TEXTS SEED FILE
    write "$1" "$4" --prompt-tokens 8 16 --texts "$(steps "$2")" --seed "$3" --stop-loops false --may-end false
}
round() { # FOLDER START STEPS ROWS LEARNING_RATE SHARE FOLLOWING SEED, then the names of texts
    local folder=$1 start=$2 count=$3 rows=$4 rate=$5 share=$6 following=$7 seed=$8
    shift 8
    train "$folder" "${text[@]}" --model "$out/$start" --max-steps "$(steps "$count")" --learning-rate "$rate" \
        --seed "$seed" --clean-probability 1 --context-negatives 0 --per-device-train-batch-size "$rows" \
        --reference "$out/reference" --reference-rows "$following" --reference-sharpness 2 --phrase-penalty 5 \
        --tail-share "$share" --tail-data "${@/#/$out/}"
}
average() { # FIRST SECOND FOLDER WEIGHT_OF_THE_FIRST
    [ -f "$out/$3/config.json" ] || python benchmarks/average.py "$out/$1" "$out/$2" "$out/$3" --weight "$4"
}
endless reference 640 1 loops0.jsonl
round round1 reference 200 16 1e-3 0.6 own 1 loops0.jsonl
average round1 reference begun 0.75
endless round1 384 2 loops1.jsonl
endless begun 768 2 loops2.jsonl
round round2 begun 200 16 8e-4 0.6 all 2 loops2.jsonl loops1.jsonl
endless round2 768 3 loops3.jsonl
round round3 round2 400 8 8e-4 0.75 all 3 loops3.jsonl loops2.jsonl
endless round3 768 4 loops4.jsonl
round round4 round3 400 8 4e-4 0.6 all 5 loops4.jsonl loops3.jsonl
endless round4 512 5 loops5.jsonl
endless round4 512 6 loops6.jsonl
round round5 round4 450 8 5e-4 0.7 all 6 loops5.jsonl loops6.jsonl loops4.jsonl
average round5 round3 middle 0.7
endless middle 768 20 loops7.jsonl
endless middle 768 21 loops8.jsonl
endless middle 512 11 loops9.jsonl
round round6 middle 1000 8 6e-4 0.65 all 21 loops7.jsonl loops8.jsonl loops9.jsonl
endless round6 1024 22 loops10.jsonl
round round7 round6 2400 8 7e-4 0.55 all 9 loops10.jsonl loops7.jsonl loops8.jsonl
average round7 round6 front 0.7
tail() { # FOLDER START STEPS LEARNING_RATE SEED, then the names of texts
    local folder=$1 start=$2 count=$3 rate=$4 seed=$5
    shift 5
    train "$folder" --model "$out/$start" --train tail --data "${@/#/$out/}" --validation-fraction 0.03 --block-size 256 \
        --max-steps "$(steps "$count")" --learning-rate "$rate" --per-device-train-batch-size "${ROWS:-16}" \
        --context-negatives 0 --phrase-penalty 0 --tail-metrics 0 --loop-share "${LOOP_SHARE:-0.25}" --seed "$seed"
}
write middle own0.jsonl --prompt-tokens 4 8 16 --texts "$(steps 1536)" --seed 2
write middle own1.jsonl --prompt-tokens 4 8 16 --texts "$(steps 1536)" --seed 3
tail tail-of-middle middle 520 1e-3 0 own0.jsonl own1.jsonl
average tail-of-middle front begun-tail 0 # its adapters beside the newer weights
write front own2.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 32
write front own3.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 33
tail tail begun-tail 1000 1e-3 0 own2.jsonl own3.jsonl
write front own4.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 34
write front own5.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 35
tail longer-tail tail 1500 8e-4 0 own2.jsonl own3.jsonl own4.jsonl own5.jsonl
write front own6.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 36
write front own7.jsonl --prompt-tokens 4 8 16 --texts "$(steps 2304)" --seed 37
tail longest-tail longer-tail 2400 8e-4 2 own2.jsonl own3.jsonl own4.jsonl own5.jsonl own6.jsonl own7.jsonl
# Short beginnings of stories are few, and longer ones give more texts that are not alike. The steps of 96 rows were a GPU's.
write front own8.jsonl --prompt-tokens 8 12 16 24 32 48 --texts "$(steps 52480)" --seed 51
ROWS=96 tail wide-tail longest-tail 100 1.5e-3 3 own8.jsonl
tail widest-tail wide-tail 1500 1e-3 4 own8.jsonl
[ -f "$out/roomy/config.json" ] || python benchmarks/tail_rank.py "$out/widest-tail" "$out/roomy" 48
tail roomy-tail roomy 2000 1e-3 5 own8.jsonl
[ -f "$out/narrow/config.json" ] || python benchmarks/tail_rank.py "$out/roomy-tail" "$out/narrow" 24
train judge --objective ar "${text[@]}" --backbone "${BACKBONE:-small}" --tokenizer "$out/ar" --seed 1 \
    --max-steps "$(steps 400)" --learning-rate 2e-3
train judge-long --objective ar "${text[@]}" --model "$out/judge" --max-steps "$(steps 1620)" --learning-rate 1e-3 --seed 5
python benchmarks/ship.py "$out/narrow" "$out/tokmat-stories"
python benchmarks/ship.py "$out/twin-long" "$out/ar-stories"
echo "The models are $out/tokmat-stories and $out/ar-stories."
