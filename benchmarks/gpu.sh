#!/usr/bin/env bash
# All that needs a GPU, of an evaluation and of a training step: about 20 minutes on one H100 or H200. What no GPU has
# measured yet comes first, each part by itself. Usage, in the project's root:
#     bash benchmarks/gpu.sh [FOLDER]
# What each command is expected to print stands in docs/gpu.md.
set -euo pipefail
out=${1:-runs/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name --format=csv,noheader | tee "$out/card.txt"
evaluate=(python -m benchmarks.evaluation --device cuda --shape 7b --checkpoint "$out/7b")
"${evaluate[@]}" --ours batch_size=64 batch_size=auto batch_size=64,deterministic=True
time mmi demo --out "$out/whole"
python -m benchmarks.gpu_checks
"${evaluate[@]}" --only text_heavy --max_new_tokens 16
"${evaluate[@]}" --ours batch_size=16 --items 6 20 --dtype float32 # ends with 1 unless all answers are equal
lmms_eval --model mmi_hf --model_args pretrained=mmi_plugin/studies/base,trace=True --tasks 'mmi_demo*' --batch_size 64 --floor \
    --output_path "$out/floor" --log_samples
step=(python -m benchmarks.train_step --device cuda --shape 7b --checkpointing)
"${step[@]}" --only published "published, liger" savings "after image" liger "after image, liger" --out "$out/repeated.json"
"${step[@]}" --only savings liger --fresh-lengths --out "$out/fresh.json"
"${step[@]}" --only savings --attention pieces --out "$out/pieces.json"
python trainers/train.py --config configs/demo/ours.yaml --model_name_or_path mmi_plugin/studies/base --max_steps 60 \
    --logging_steps 10 --report_to none --save_strategy no --trace true --output_dir "$out/demo"
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then # what is sharded, gathered once around the inner loop and in each of its passes
    for once in true false; do
        accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 trainers/train.py \
            --config configs/demo/ours.yaml --model_name_or_path mmi_plugin/studies/base --max_steps 40 \
            --logging_steps 10 --report_to none --save_strategy no --inner_gather $once --output_dir "$out/fsdp2-$once"
    done
fi
