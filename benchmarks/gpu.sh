#!/usr/bin/env bash
# All that needs a GPU, of a training step and of an evaluation: about 15 minutes on one H100 or H200. Usage, in the project's root:
#     bash benchmarks/gpu.sh [FOLDER]
# What each command is expected to print stands in docs/gpu.md.
set -euo pipefail
out=${1:-runs/gpu}
mkdir -p "$out"
nvidia-smi --query-gpu=name --format=csv,noheader | tee "$out/card.txt"
python -m benchmarks.gpu_checks
step=(python -m benchmarks.train_step --device cuda --shape 7b --checkpointing)
"${step[@]}" --only published savings "after image" liger "after image, liger" --out "$out/repeated.json"
"${step[@]}" --only savings "after image" --fresh-lengths --out "$out/fresh.json"
"${step[@]}" --only savings --attention pieces --out "$out/pieces.json"
python trainers/train.py --config configs/demo/ours.yaml --model_name_or_path mmi_plugin/studies/base --max_steps 60 \
    --logging_steps 10 --report_to none --save_strategy no --trace true --output_dir "$out/demo"
evaluate=(python -m benchmarks.evaluation --device cuda --shape 7b)
"${evaluate[@]}" --ours batch_size=64 batch_size=auto batch_size=64,deterministic=True
"${evaluate[@]}" --only text_heavy --max_new_tokens 16
"${evaluate[@]}" --ours batch_size=16 --items 6 20 --dtype float32 # ends with 1 unless all answers are equal
lmms_eval --model mmi_hf --model_args pretrained=mmi_plugin/studies/base,trace=True --tasks 'mmi_demo*' --batch_size 64 --floor \
    --output_path "$out/floor" --log_samples
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then # what is sharded, gathered once around the inner loop and in each of its passes
    for once in true false; do
        accelerate launch --config_file configs/accelerate/fsdp2.yaml --num_processes 2 trainers/train.py \
            --config configs/demo/ours.yaml --model_name_or_path mmi_plugin/studies/base --max_steps 40 \
            --logging_steps 10 --report_to none --save_strategy no --inner_gather $once --output_dir "$out/fsdp2-$once"
    done
fi
