"""Train the embedded model from scratch, and write its weights in half precision.

Stops at --steps or after --minutes, whichever is first, and goes on from where it stopped when called again with the
same --progress folder. Uses every GPU under `torchrun --nproc-per-node gpu scripts/train_embedded_model.py ...`, one
GPU without torchrun, and the CPU where there is none. Where mmcv's operators are not compiled, torchvision serves them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from helpers import paths
from helpers.artifacts import sha256_file, whole_file, write_text
from helpers.compat import ensure_torchvision
from helpers.errors import CourseError
from helpers.scenes.emoji_art import load_sprites, sprite_archive
from helpers.scenes.torchvision_ops import mmcv_ops_are_compiled, serve_by_torchvision, use_torchvision_roi_align

ensure_torchvision()
COMPILED = mmcv_ops_are_compiled()
if not COMPILED:
    serve_by_torchvision()

from mmdet.datasets import CocoDataset  # noqa: E402
from mmdet.models import build_detector  # noqa: E402

from helpers.detector.evaluation import AveragePrecision, evaluate, load_set  # noqa: E402
from helpers.detector.inference import detect  # noqa: E402
from helpers.detector.models import load_config  # noqa: E402
from helpers.scenes.training import TrainingPlan, half_state, load_progress, save_progress, scene_batches, train  # noqa: E402


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = TrainingPlan(steps=12_000)
    parser.add_argument("--steps", type=int, default=plan.steps, help="length of the schedule (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=plan.batch, help="pictures a step and device (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=plan.peak, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop, resumable, after this long")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="processes that render")
    parser.add_argument(
        "--evaluate-every", type=int, default=2000, help="steps between validations (default: %(default)s)"
    )
    parser.add_argument("--progress", type=Path, default=paths.build_root() / "training", help="where to resume from")
    parser.add_argument("--output", type=Path, default=paths.MODELS / "emoji" / "mask_rcnn_emoji.pth")
    return parser.parse_args()


def main() -> None:
    options = parse()
    began = time.monotonic()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(rank)

    config = load_config("emoji")
    if not COMPILED:
        use_torchvision_roi_align(config.model)
    detector = build_detector(config.model)
    if rank == 0:
        detector.init_weights()
    detector.CLASSES = CocoDataset.CLASSES
    detector.to(device, memory_format=torch.channels_last)
    plan = TrainingPlan(steps=options.steps, batch=options.batch, peak=options.rate)
    decayed = [parameter for parameter in detector.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in detector.parameters() if parameter.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}], lr=plan.peak
    )
    progress = options.progress / "progress.pth"
    first = load_progress(progress, detector, optimiser)
    # DDP copies rank 0's weights to the others when it is made.
    model = torch.nn.parallel.DistributedDataParallel(detector) if world > 1 else detector

    sprites = load_sprites(sprite_archive(paths.build_root() / "emoji_sprites.npz"))
    left = plan.steps - first
    # Rank r renders its own block of seeds; a resumed run goes on where the earlier one stopped.
    offset = rank * plan.steps * plan.batch + first * plan.batch
    batches = scene_batches(sprites, detector.CLASSES, offset, left * plan.batch, plan.batch, options.workers // world)
    log = options.progress / "log.txt"
    bar = tqdm(total=plan.steps, initial=first, desc="training", unit="step", disable=rank != 0, mininterval=5)

    def validate(step: int, pictures: int) -> AveragePrecision:
        detector.eval()
        result = evaluate(load_set().head(pictures), lambda picture: detect(detector, picture))
        detector.train()
        tqdm.write(f"step {step}: {result}")
        return result

    def after_step(step: int, losses: dict[str, float]) -> bool:
        bar.update()
        minutes = (time.monotonic() - began) / 60
        if losses and rank == 0:
            parts = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            with log.open("a") as stream:
                stream.write(f"{step} {minutes:.2f} min: {parts}\n")
            if step % 200 == 0:
                tqdm.write(f"{step} {minutes:.2f} min: {parts}")
        if step % options.evaluate_every == 0 and rank == 0 and step < plan.steps:
            validate(step, 12)
            save_progress(progress, detector, optimiser, step)
        stop = torch.tensor(float(minutes > options.minutes), device=device)
        if world > 1:
            torch.distributed.broadcast(stop, 0)  # clocks differ; rank 0 decides
        return not bool(stop)

    options.progress.mkdir(parents=True, exist_ok=True)
    step = first
    try:
        step = train(model, optimiser, batches, plan, first, after_step)
    finally:
        bar.close()
    if rank == 0:
        save_progress(progress, detector, optimiser, step)
        state = half_state(detector)
        with whole_file(options.output) as temporary, temporary.open("wb") as stream:
            torch.save({"meta": {"CLASSES": list(detector.CLASSES)}, "state_dict": state}, stream)
        write_text(options.output.parent / "SHA256SUMS", f"{sha256_file(options.output)}  {options.output.name}\n")
        detector.load_state_dict({name: value.to(device) for name, value in state.items()})
        result = validate(step, 1_000_000)
        minutes = (time.monotonic() - began) / 60
        write_text(
            options.progress / "result.txt",
            f"{step} of {plan.steps} steps, {minutes:.1f} min in this run, {world} x {device}, {result}\n",
        )
        print(f"{step} of {plan.steps} steps; {result}; wrote {options.output}")
    if world > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except CourseError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted; call again with the same --progress to go on from the last saved step")
