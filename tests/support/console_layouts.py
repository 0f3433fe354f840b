"""Console logs as programs of many kinds print them, made up, each with what is true of it.

A layout is a function that writes the log of `EPOCHS` epochs of `PER_EPOCH` records, `STRIDE` steps apart, with the losses of
`loss_at`; it is registered with what a reader must find: the axis, the first positions, the number of losses and evaluations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

EPOCHS, PER_EPOCH, STRIDE = 4, 10, 20
LENGTH = PER_EPOCH * STRIDE
"""Steps of an epoch."""


def loss_at(index: int) -> float:
    """The loss of a record, in four digits."""
    return round(1.5 + 3 * math.exp(-index / 12) + 0.05 * math.sin(7.0 * index), 4)


def rate_at(index: int) -> float:
    """The learning rate of a record."""
    return round(3e-4 * (1 - index / 80), 8)


def records() -> Iterator[tuple[int, int, int, float, float]]:
    """Index, epoch from 0, step within it, loss and rate."""
    for index in range(EPOCHS * PER_EPOCH):
        yield index, index // PER_EPOCH, (index % PER_EPOCH) * STRIDE, loss_at(index), rate_at(index)


def ends(index: int) -> bool:
    """Whether a record is the last one of its epoch."""
    return index % PER_EPOCH == PER_EPOCH - 1


@dataclass(frozen=True)
class Layout:
    """A log and the truth about it."""

    text: str
    axis: str = "step"
    first: float = 0
    stride: float = STRIDE
    points: int = EPOCHS * PER_EPOCH
    evaluations: int = 0
    losses: tuple[float, ...] | None = None
    rated: bool = False


LAYOUTS: dict[str, Callable[[], Layout]] = {}


def layout(function: Callable[[], Layout]) -> Callable[[], Layout]:
    """Register."""
    LAYOUTS[function.__name__] = function
    return function


EPOCH_LOSSES = tuple(loss_at(index) for index in range(EPOCHS * PER_EPOCH) if ends(index))


@layout
def lightning_bar() -> Layout:
    """Every redraw of the bar is a record; the one at the end has the validation beside it."""
    text = "GPU available: True, used: True\n  | Name  | Type | Params\n0 | model | GPT  | 124 M\n124 M     Trainable params\n"
    for index, epoch, step, loss, _ in records():
        done = step + STRIDE
        bar = "█" * (done // 20)
        text += f"\rEpoch {epoch}: {done * 100 // LENGTH:3d}%|{bar:<10}| {done}/{LENGTH} [00:{index:02d}<01:00,  9.91it/s, v_num=0, train_loss={loss:.4f}"
        text += f", val_loss={loss + 0.1:.4f}]\n" if ends(index) else "]"
    return Layout(text, first=STRIDE, evaluations=EPOCHS)


@layout
def tqdm_postfix() -> Layout:
    """A bar an epoch with the loss behind it."""
    text = ""
    for index, epoch, step, loss, rate in records():
        done = step + STRIDE
        bar = "#" * (done // 20)
        text += f"\rEpoch {epoch + 1}/{EPOCHS}: {done * 100 // LENGTH:3d}%|{bar:<10}| {done}/{LENGTH} [00:{index:02d}<01:00, 9.9it/s, loss={loss}, lr={rate}]"
        if ends(index):
            text += f"\nValidation: loss={loss + 0.1:.4f} acc=0.5\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS, rated=True)


@layout
def keras_fit() -> Layout:
    """Redrawn with backspaces; the bar within an epoch holds running means."""
    text = ""
    for index, epoch, step, loss, _ in records():
        if index % PER_EPOCH == 0:
            text += f"Epoch {epoch + 1}/{EPOCHS}\n"
        if ends(index):
            text += f"\b\b\b\r200/200 [==============================] - 4s 21ms/step - loss: {loss:.4f} - accuracy: 0.91 - val_loss: {loss + 0.1:.4f} - val_accuracy: 0.9\n"
        else:
            text += f"\b\b\b\r{step + 1:3d}/200 [====>.........................] - ETA: 3s - loss: {loss:.4f} - accuracy: 0.9"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


def means_so_far() -> list[float]:
    """The mean of an epoch's losses up to each record, noise of a batch included."""
    means: list[float] = []
    for index, epoch, _, _, _ in records():
        since = index - index % PER_EPOCH
        batch = [EPOCH_LOSSES[epoch] + 0.4 * math.sin(5.0 * (k + 1) ** 2) for k in range(since, index + 1)]
        means.append(round(sum(batch) / len(batch), 4))
    return means


@layout
def keras_3() -> Layout:
    """Keras 3 draws with other characters and blanks; what it shows within an epoch is a mean over its beginning."""
    text, means = "", means_so_far()
    for index, epoch, step, _, _ in records():
        loss = means[index]
        if index % PER_EPOCH == 0:
            text += f"Epoch {epoch + 1}/{EPOCHS}\n"
        if ends(index):
            text += f"\x1b[1m200/200\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m2s\x1b[0m 7ms/step - accuracy: 0.88 - loss: {loss:.4f} - val_accuracy: 0.9 - val_loss: {loss + 0.1:.4f}\n"
        else:
            text += f"\x1b[1m{step + 20:3d}/200\x1b[0m \x1b[32m━━\x1b[0m\x1b[37m━━━━━━━━━━━━━━━━━━\x1b[0m \x1b[1m2s\x1b[0m 7ms/step - accuracy: 0.1094 - loss: {loss:.4f}\r"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, tuple(m for i, m in enumerate(means) if ends(i)))


@layout
def keras_two_lines() -> Layout:
    """`verbose=2`."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"Epoch {epoch + 1}/{EPOCHS}\n200/200 - 4s - 21ms/step - loss: {loss:.4f} - acc: 0.9 - val_loss: {loss + 0.1:.4f} - val_acc: 0.9\n"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def fastai_table() -> Layout:
    """Names once, then rows."""
    text = "epoch     train_loss  valid_loss  accuracy  time    \n"
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"{epoch:<9d} {loss:<11.6f} {loss + 0.1:<11.6f} 0.912345  00:{epoch + 10}     \n"
    return Layout(text, "epoch", 0, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def notebook_table() -> Layout:
    """What the Trainer shows in a notebook, copied."""
    text = "Step\tTraining Loss\tValidation Loss\n"
    for index, _, _, loss, _ in records():
        text += f"{(index + 1) * STRIDE}\t{loss:.6f}\t{loss + 0.1:.6f}\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS * PER_EPOCH)


@layout
def markdown_table() -> Layout:
    """Pipes and a rule."""
    text = "starting\n\n| step | train loss | lr | grad norm |\n|------|-----------|-----|-----|\n"
    for index, _, _, loss, rate in records():
        text += f"| {index * STRIDE} | {loss} | {rate} | 0.91 |\n"
    return Layout(text, rated=True)


@layout
def rich_table() -> Layout:
    """Frames of another kind."""
    text = "┏━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━┓\n┃ epoch ┃ train_loss ┃ val_loss ┃\n┡━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━┩\n"
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"│ {epoch + 1:5d} │ {loss:10.4f} │ {loss + 0.1:8.4f} │\n"
    return Layout(text + "└───────┴────────────┴──────────┘\n", "epoch", 1, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def detectron2() -> Layout:
    """Doubled blanks, units, no separators at some."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"[02/01 00:00:{index:02d} d2.utils.events]: \x1b[0m eta: 1:02:11  iter: {index * STRIDE + 19}  total_loss: {loss:.4f}  loss_cls: {loss / 2:.4f}  loss_box_reg: {loss / 2:.4f}    time: 0.2021  last_time: 0.21  data_time: 0.0102  last_data_time: 0.01   lr: {rate:.5g}  max_mem: 3210M\n"
    return Layout(text, first=19, rated=True)


@layout
def mmdet() -> Layout:
    """Validation has lines of its own, several a pass."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"2026/02/01 00:{index:02d}:07 - mmengine - INFO - Epoch(train) [{epoch + 1}][{step + STRIDE:3d}/{LENGTH}]  base_lr: {rate:.4e} lr: {rate:.4e}  eta: 0:12:11  time: 0.4123  data_time: 0.0031  memory: 8211  loss: {loss:.4f}  loss_rpn_cls: {loss / 3:.4f}  acc: 91.2\n"
        if ends(index):
            text += (
                f"2026/02/01 00:{index:02d}:30 - mmengine - INFO - Saving checkpoint at {epoch + 1} epochs\n"
            )
            for done in (50, 100):
                text += f"2026/02/01 00:{index:02d}:31 - mmengine - INFO - Epoch(val) [{epoch + 1}][{done}/100]    eta: 0:00:02  time: 0.05  data_time: 0.001  memory: 511\n"
            text += f"2026/02/01 00:{index:02d}:32 - mmengine - INFO - Epoch(val) [{epoch + 1}][100/100]    coco/bbox_mAP: 0.3{epoch}10  coco/bbox_mAP_50: 0.5  data_time: 0.001  time: 0.05\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS)


@layout
def torchvision_reference() -> Layout:
    """Epoch and batch in brackets, `loss: value (mean)`."""
    text = "Not using distributed mode\n"
    for index, epoch, step, loss, rate in records():
        text += f"Epoch: [{epoch}]  [{step:3d}/{LENGTH}]  eta: 0:01:41  lr: {rate}  img/s: 301.5  loss: {loss:.4f} ({loss + 0.03:.4f})  acc1: 1.2 (1.1)  time: 0.1064  data: 0.0021  max mem: 5123\n"
        if ends(index):
            text += f"Epoch: [{epoch}] Total time: 0:01:40\n"
            for done in (0, 50):
                text += f"Test:   [{done:3d}/100]  eta: 0:00:21  loss: {loss + 0.2:.4f} ({loss + 0.1:.4f})  acc1: 62.5 (61.0)  time: 0.2\n"
            text += "Test:  Acc@1 61.000 Acc@5 83.000\n"
    return Layout(text, evaluations=EPOCHS, rated=True)


@layout
def timm() -> Layout:
    """Totals, percent, rate in words."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"Train: {epoch} [{step:4d}/{LENGTH} ({step * 100 // LENGTH:3d}%)]  Loss: {loss:#.3g} ({loss:#.3g})  Time: 0.311s,  822.51/s  (0.321s,  801.11/s)  LR: {rate:.3e}  Data: 0.011 (0.012)\n"
        if ends(index):
            for done in (0, 50, 78):
                text += f"Test: [{done:4d}/78]  Time: 0.122 (0.122)  Loss:  {loss + 0.2:6.3f} ({loss + 0.1:6.3f})  Acc@1:  55.078 ( 55.078)  Acc@5: 80.1 ( 80.1)\n"
            text += "Current checkpoints:\n ('./output/checkpoint-0.pth.tar', 61.21)\n"
    return Layout(
        text,
        losses=tuple(float(f"{loss:#.3g}") for _, _, _, loss, _ in records()),
        evaluations=EPOCHS,
        rated=True,
    )


@layout
def mnist_example() -> Layout:
    """Samples instead of batches."""
    text = ""
    for index, epoch, step, loss, _ in records():
        text += f"Train Epoch: {epoch + 1} [{step * 64}/{LENGTH * 64} ({step * 100 // LENGTH}%)]\tLoss: {loss:.6f}\n"
        if ends(index):
            text += f"\nTest set: Average loss: {loss + 0.1:.4f}, Accuracy: 9712/10000 (97%)\n\n"
    return Layout(text, stride=STRIDE * 64, evaluations=EPOCHS)


@layout
def tutorial_running_loss() -> Layout:
    """Epoch and batch in one pair of brackets."""
    text = ""
    for _, epoch, step, loss, _ in records():
        text += f"[{epoch + 1}, {step + STRIDE:5d}] loss: {loss:.3f}\n"
    return Layout(
        text + "Finished Training\n",
        first=STRIDE,
        losses=tuple(round(loss, 3) for _, _, _, loss, _ in records()),
    )


@layout
def tutorial_epoch_step() -> Layout:
    """Words and totals."""
    text = ""
    for _, epoch, step, loss, _ in records():
        text += f"Epoch [{epoch + 1}/{EPOCHS}], Step [{step + STRIDE}/{LENGTH}], Loss: {loss:.4f}\n"
    return Layout(text, first=STRIDE)


@layout
def transfer_learning() -> Layout:
    """A header an epoch, and a line for each kind of data."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"Epoch {epoch}/{EPOCHS - 1}\n----------\ntrain Loss: {loss:.4f} Acc: 0.8123\nval Loss: {loss + 0.1:.4f} Acc: 0.7999\n\n"
    return Layout(text, "epoch", 0, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def word_language_model() -> Layout:
    """Pipes, and names behind their numbers."""
    text = ""
    for index, epoch, step, loss, _ in records():
        text += f"| epoch {epoch + 1:3d} | {step + STRIDE:5d}/{LENGTH:5d} batches | lr 20.00 | ms/batch 12.31 | loss {loss:5.4f} | ppl {math.exp(loss):8.2f}\n"
        if ends(index):
            text += (
                "-" * 89
                + f"\n| end of epoch {epoch + 1:3d} | time: 22.21s | valid loss {loss + 0.1:5.2f} | valid ppl {math.exp(loss):8.2f}\n"
                + "-" * 89
                + "\n"
            )
    return Layout(text, first=STRIDE, evaluations=EPOCHS)


@layout
def fairseq_simple() -> Layout:
    """Progress and summaries of an epoch, for both kinds of data."""
    text = ""
    for index, epoch, step, loss, rate in records():
        update = epoch * LENGTH + step + STRIDE
        text += f"2026-02-01 00:{index:02d}:07 | INFO | train_inner | epoch {epoch + 1:03d}: {step + STRIDE:6d} / {LENGTH} loss={loss:.4f}, nll_loss={loss - 0.1:.4f}, ppl=12.1, wps=41000, ups=1.2, wpb=3500, bsz=120, num_updates={update}, lr={rate}, gnorm=1.02, train_wall=81, wall=92\n"
        if ends(index):
            text += f"2026-02-01 00:{index:02d}:40 | INFO | valid | epoch {epoch + 1:03d} | valid on 'valid' subset | loss {loss + 0.1:.3f} | nll_loss {loss:.3f} | ppl 17.2 | bleu 21.3 | wps 90000 | num_updates {update} | best_loss 1.9\n"
            text += f"2026-02-01 00:{index:02d}:41 | INFO | train | epoch {epoch + 1:03d} | loss {loss + 0.5:.3f} | nll_loss {loss + 0.4:.3f} | ppl 15.1 | wps 41000 | num_updates {update} | lr {rate} | gnorm 1.1\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS, rated=True)


@layout
def nemo_megatron() -> Layout:
    """A bar with many values."""
    text = ""
    for index, _, _, loss, rate in records():
        done = (index + 1) * STRIDE
        text += f"\rEpoch 0: :  {done * 100 // 800}%|▉         | {done}/800 [00:{index:02d}<05:00, v_num=x1, reduced_train_loss={loss}, global_step={done - 1}.0, consumed_samples={done * 8}.0, train_step_timing in s=0.3, lr={rate}]"
    return Layout(text + "\n", first=STRIDE - 1, rated=True)


@layout
def megatron_validation() -> Layout:
    """Rules, and a validation in words."""
    text = "> building train, validation, and test datasets ...\n"
    for index, _, _, loss, rate in records():
        step = (index + 1) * STRIDE
        text += f" iteration {step:8d}/     800 | consumed samples: {step * 64:12d} | elapsed time per iteration (ms): 312.1 | learning rate: {rate:.3E} | global batch size:    64 | lm loss: {loss:.6E} | loss scale: 65536.0 | grad norm: 1.313 | num zeros: 0 | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
        if ends(index):
            text += (
                "-" * 60
                + f"\n validation loss at iteration {step} | lm loss value: {loss + 0.1:.6E} | lm loss PPL: 1.2E+01 | \n"
                + "-" * 60
                + "\n"
            )
    return Layout(text, first=STRIDE, evaluations=EPOCHS, rated=True)


@layout
def deepspeed_chat() -> Layout:
    """A sentence an epoch, with an evaluation."""
    text = ""
    for index, epoch, step, loss, _ in records():
        text += f"Epoch: {epoch}, Step: {step}, Rank: 0, loss = {loss}\nModel Parameters: 1.3 B, Latency: 0.61s, TFLOPs: 54.2, Samples/sec: 26.1, Time/seq 0.04s, Batch Size: 16, Sequence Length: 512\n"
        if ends(index):
            text += f"***** Evaluating perplexity, Epoch {epoch + 1}/{EPOCHS} *****\nppl: {math.exp(loss):.4f}, loss: {loss + 0.1:.4f}\n"
    return Layout(text, evaluations=EPOCHS)


@layout
def xgboost_rounds() -> Layout:
    """A round in brackets, data and metric in one name."""
    text = "".join(
        f"[{index}]\ttrain-rmse:{loss:.5f}\teval-rmse:{loss + 0.1:.5f}\n"
        for index, _, _, loss, _ in records()
    )
    return Layout(text, stride=1, evaluations=EPOCHS * PER_EPOCH)


@layout
def lightgbm_rounds() -> Layout:
    """Names with quotes in them."""
    text = "[LightGBM] [Info] Total Bins 5123\n"
    text += "".join(
        f"[{index + 1}]\ttraining's binary_logloss: {loss:.6f}\tvalid_1's binary_logloss: {loss + 0.1:.6f}\n"
        for index, _, _, loss, _ in records()
    )
    return Layout(text, first=1, stride=1, evaluations=EPOCHS * PER_EPOCH)


@layout
def catboost_rounds() -> Layout:
    """The round before a colon."""
    text = "".join(
        f"{index}:\tlearn: {loss:.7f}\ttest: {loss + 0.1:.7f}\tbest: {loss + 0.1:.7f} ({index})\ttotal: 52ms\tremaining: 51.9s\n"
        for index, _, _, loss, _ in records()
    )
    return Layout(text, stride=1, evaluations=EPOCHS * PER_EPOCH)


@layout
def sklearn_verbose() -> Layout:
    """A sentence a record."""
    return Layout(
        "".join(f"Iteration {index + 1}, loss = {loss:.8f}\n" for index, _, _, loss, _ in records())
        + "Training loss did not improve more than tol=0.000100 for 10 consecutive epochs. Stopping.\n",
        first=1,
        stride=1,
    )


@layout
def caffe_solver() -> Layout:
    """The rate on a line of its own, the loss twice."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"I0201 00:00:{index:02d}.123456 31337 solver.cpp:228] Iteration {index * STRIDE}, loss = {loss}\nI0201 00:00:{index:02d}.123460 31337 solver.cpp:244]     Train net output #0: loss = {loss + 0.01:.4f} (* 1 = {loss + 0.01:.4f} loss)\nI0201 00:00:{index:02d}.123465 31337 sgd_solver.cpp:106] Iteration {index * STRIDE}, lr = {rate}\n"
        if ends(index):
            text += f"I0201 00:01:00.1 31337 solver.cpp:337] Iteration {index * STRIDE}, Testing net (#0)\nI0201 00:01:01.1 31337 solver.cpp:404]     Test net output #0: accuracy = 0.91\nI0201 00:01:01.1 31337 solver.cpp:404]     Test net output #1: loss = {loss + 0.1:.4f} (* 1 = {loss + 0.1:.4f} loss)\n"
    return Layout(text, evaluations=EPOCHS, rated=True)


@layout
def darknet() -> Layout:
    """Names behind numbers."""
    text = ""
    for index, _, _, loss, _ in records():
        text += f" {index + 1}: {loss + 0.2:.6f}, {loss:.6f} avg loss, 0.001000 rate, 3.291812 seconds, {index * 64} images\n"
    return Layout(text, first=1, stride=1)


@layout
def loguru() -> Layout:
    """Pipes, function and line."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"2026-02-01 00:00:{index:02d}.123 | INFO     | trainer.loop:fit:212 - epoch {epoch} step {epoch * LENGTH + step} loss {loss} lr {rate:.2e} ({41.2 + index:.1f} it/s)\n"
    return Layout(text, rated=False)


@layout
def flax_lines() -> Layout:
    """Absl's prefix, thousands with commas."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"I0201 00:00:{index:02d}.123456 140123 train.py:88] [{index * 500:,}] steps/s=4.21, learning_rate={rate}, train_loss={loss}, train_accuracy=0.4\n"
        if ends(index):
            text += f"I0201 00:00:{index:02d}.993456 140123 train.py:91] [{index * 500:,}] eval_loss={loss + 0.1:.4f}, eval_accuracy=0.41\n"
    return Layout(text, stride=500, evaluations=EPOCHS, rated=True)


@layout
def accelerate_print() -> Layout:
    """f-strings of a user."""
    text = ""
    for index, epoch, _, loss, _ in records():
        if ends(index):
            text += f"epoch {epoch}: train_loss: {loss} eval_accuracy: 0.91 eval_loss: {loss + 0.1:.4f}\n"
    return Layout(text, "epoch", 0, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def axolotl() -> Layout:
    """Dictionaries between the redraws of a bar."""
    text = "[2026-02-01 00:00:00,123] [INFO] [axolotl.train:117] [PID:212] [RANK:0] Starting trainer...\n"
    for index, _, _, loss, rate in records():
        done = (index + 1) * STRIDE
        text += f"\r{done * 100 // 800:3d}%|█         | {done}/800 [00:{index:02d}<10:00,  1.99it/s]\n                                                 \n\r{{'loss': {loss}, 'grad_norm': 0.51, 'learning_rate': {rate}, 'epoch': {done / LENGTH:.2f}}}\n\r{done * 100 // 800:3d}%|█         | {done}/800 [00:{index:02d}<10:00,  1.99it/s]"
        if ends(index):
            text += f"\n\r  0%|          | 0/57 [00:00<?, ?it/s]\x1b[A\r 50%|█████     | 28/57 [00:01<00:01, 20.1it/s]\x1b[A\n{{'eval_loss': {loss + 0.1:.4f}, 'eval_runtime': 2.1, 'eval_samples_per_second': 41.0, 'epoch': {done / LENGTH:.2f}}}\n"
    return Layout(
        text
        + "\n{'train_runtime': 1210.1, 'train_samples_per_second': 10.1, 'train_loss': 2.31, 'epoch': 4.0}\n",
        first=STRIDE,
        evaluations=EPOCHS,
        rated=True,
    )


@layout
def opennmt() -> Layout:
    """Semicolons, mixed separators."""
    text = ""
    for index, _, _, loss, rate in records():
        step = (index + 1) * 50
        text += f"[2026-02-01 00:00:{index:02d},123 INFO] Step {step}/ 2000; acc:  51.2; ppl:  {math.exp(loss):.2f}; xent: {loss}; lr: {rate:.8f}; sents:    6401; bsz: 3212/3312/ 9; 10123/9123 tok/s;    121 sec;\n"
    return Layout(text, first=50, stride=50, rated=True)


@layout
def espnet() -> Layout:
    """A range of batches, `key=value` with commas."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"[host] 2026-02-01 00:{index:02d}:01,123 (trainer:732) INFO: {epoch + 1}epoch:train:{step + 1}-{step + STRIDE}batch: iter_time=1.1e-04, forward_time=0.14, loss_ctc={loss * 2:.3f}, loss_att={loss * 0.8:.3f}, acc=0.51, loss={loss}, backward_time=0.1, optim0_lr0={rate}, train_time=1.2\n"
    return Layout(text, axis="any", points=EPOCHS * PER_EPOCH)


@layout
def ultralytics() -> Layout:
    """A header each epoch, three losses of one objective, a bar behind the row."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += "\n      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size\n"
        for done in (4, 8):
            text += f"\r        {epoch + 1}/{EPOCHS}      2.1G     {loss:.4f}     0.5000     0.2500         17        640: {done * 100 // 8}%|██████████| {done}/8 [00:0{done}<00:00,  4.55it/s]"
        text += "\n                 Class     Images  Instances      Box(P          R      mAP50  mAP50-95): 100%|██████████| 4/4 [00:00<00:00,  6.1it/s]\n"
        text += f"                   all        128        929       0.64      0.537      0.605      0.4{epoch}6\n"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, tuple(round(loss + 0.75, 4) for loss in EPOCH_LOSSES))


@layout
def paddle() -> Layout:
    """Commas, a level, `epoch: [1/4]`."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"[2026/02/01 00:{index:02d}:07] ppocr INFO: epoch: [{epoch + 1}/{EPOCHS}], global_step: {epoch * LENGTH + step + STRIDE}, lr: {rate:.6f}, acc: 0.125, loss: {loss:.6f}, avg_reader_cost: 0.00131 s, avg_batch_cost: 0.12 s, avg_samples: 16.0, ips: 130.1 samples/s, eta: 0:12:01\n"
    return Layout(text, first=STRIDE)


@layout
def gan_like_pairs() -> Layout:
    """Everything in brackets."""
    text = ""
    for _, epoch, step, loss, _ in records():
        text += f"[Epoch {epoch}/{EPOCHS}] [Batch {step}/{LENGTH}] [loss: {loss}] [acc: 61.5%]\n"
    return Layout(text)


@layout
def multi_line_block() -> Layout:
    """One value a line."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"== step {index * STRIDE} ==\n  loss:      {loss}\n  lr:        {rate}\n  grad norm: 0.91\n"
    return Layout(text, rated=True)


@layout
def baselines_block() -> Layout:
    """A box with a name and a value a line."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"---------------------------------\n| time/              |          |\n|    iterations      | {index + 1}        |\n|    total_timesteps | {(index + 1) * 2048}     |\n| train/             |          |\n|    learning_rate   | {rate}   |\n|    loss            | {loss}   |\n---------------------------------\n"
    return Layout(text, first=1, stride=1, rated=True)


@layout
def python_logging_json() -> Layout:
    """JSON behind a prefix, nested."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"INFO:train:{json.dumps({'event': 'log', 'epoch': epoch, 'step': epoch * LENGTH + step, 'train': {'loss': loss}, 'opt': {'lr': rate}})}\n"
        if ends(index):
            text += f"INFO:train:{json.dumps({'event': 'eval', 'step': epoch * LENGTH + step, 'val': {'loss': loss + 0.1, 'acc': 0.5}})}\n"
    return Layout(text, evaluations=EPOCHS, rated=True)


@layout
def tensors_printed() -> Layout:
    """Values that were not unwrapped."""
    text = ""
    for index, _, _, loss, _ in records():
        text += f"iter {index * STRIDE} loss tensor({loss}, device='cuda:0', grad_fn=<NllLossBackward0>)\n"
    return Layout(text)


@layout
def sentence() -> Layout:
    """Prose."""
    return Layout(
        "".join(
            f"After {index * STRIDE} steps the training loss is {loss} and the learning rate is {rate}.\n"
            for index, _, _, loss, rate in records()
        ),
        rated=True,
    )


@layout
def kaldi_like() -> Layout:
    """The value first, then what it is over."""
    text = ""
    for index, _, _, loss, _ in records():
        text += f"LOG (nnet3-train[5.5]:PrintStats():nnet-training.cc:210) Iter {index}: average loss per frame is {loss} over 61200 frames\n"
    return Layout(text, stride=1)


@layout
def ranks_mixed() -> Layout:
    """Two ranks print the same; the first is read."""
    text = ""
    for index, _, _, loss, _ in records():
        for rank in (1, 0):
            text += f"[rank{rank}] step={index * STRIDE} loss={loss + rank * 0.3:.4f}\n"
    return Layout(text)


@layout
def srun_labels() -> Layout:
    """Slurm puts the task before each line."""
    text = ""
    for index, _, _, loss, _ in records():
        for rank in (0, 1):
            text += f"{rank}: iter {index * STRIDE}: loss {loss + rank * 0.3:.4f}\n"
    return Layout(text)


@layout
def composer() -> Layout:
    """A header of counters, then a value a line."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"[epoch={epoch + 1}][batch={step + STRIDE}/{LENGTH}]:\n\t Train time/batch: {epoch * LENGTH + step + STRIDE}\n\t Train time/sample: {index * 512}\n\t Train loss/train/total: {loss}\n\t Train lr-DecoupledAdamW/group0: {rate}\n\t Train throughput/samples_per_sec: 12.1\n"
        if ends(index):
            text += f"[eval batch=57/57] Eval on eval data:\n\t Eval metrics/eval/LanguageCrossEntropy: {loss + 0.1:.4f}\n\t Eval metrics/eval/LanguagePerplexity: 12.1\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS, rated=True)


@layout
def internlm() -> Layout:
    """Keys with slashes and brackets, a dictionary in a value."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"2026-02-01 00:00:{index:02d},123\tINFO train.py:321 in record_current_batch_training_metrics -- tflops=63.2 step={index} loss={loss} tgs (tokens/gpu/second)=4119.0 lr={rate} loss_scale=65536.0 grad_norm={{'0_default': 12.3}} micro_num=4 num_consumed_tokens={index * 131072} inf_nan_skip_batches=0 num_samples_in_batch=20\n"
    return Layout(text, stride=1, rated=True)


@layout
def paddlenlp() -> Layout:
    """Padded level."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"[2026-02-01 00:00:{index:02d},123] [    INFO] - loss: {loss}, learning_rate: {rate}, global_step: {(index + 1) * 10}, interval_runtime: 1.2, interval_samples_per_second: 6.0, progress_or_epoch: 0.{index:02d}\n"
    return Layout(text, first=10, stride=10, rated=True)


@layout
def estimator() -> Layout:
    """The step behind the loss, the pace in brackets."""
    text = ""
    for index, _, _, loss, _ in records():
        text += f"INFO:tensorflow:global_step/sec: 8.12\nINFO:tensorflow:loss = {loss}, step = {index * 100} (12.312 sec)\n"
    return Layout(text, stride=100)


@layout
def maxtext() -> Layout:
    """`completed step`, throughput with two slashes."""
    text = ""
    for index, _, _, loss, _ in records():
        text += f"completed step: {index}, seconds: 1.231, TFLOP/s/device: 100.1, Tokens/s/device: 1234.5, total_weights: 65536, loss: {loss}\n"
    return Layout(text, stride=1)


@layout
def llm_c() -> Layout:
    """Standard scores in brackets."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f"step {index + 1:4d}/1000 | loss {loss:.6f} (+1.23z)| norm 0.9121 (+0.11z)| lr {rate:.2e} | 123.45 ms | 45.6% bf16 MFU | 123456 tok/s\n"
        if ends(index):
            text += f"val loss {loss + 0.1:.6f}\n"
    return Layout(text, first=1, stride=1, evaluations=EPOCHS, rated=True)


@layout
def speedrun() -> Layout:
    """`key:value` with totals and units."""
    text = ""
    for index, _, _, loss, _ in records():
        if index % PER_EPOCH == 0:
            text += f"step:{index}/40 val_loss:{loss + 0.1:.4f} train_time:{index * 100}ms step_avg:nanms\n"
        text += (
            f"step:{index + 1}/40 train_loss:{loss:.4f} train_time:{index * 100 + 50}ms step_avg:95.31ms\n"
        )
    return Layout(text, first=1, stride=1, evaluations=EPOCHS)


@layout
def litgpt() -> Layout:
    """Both losses behind one word."""
    text = ""
    for index, epoch, _, loss, _ in records():
        val = f"{loss + 0.1:.3f}" if ends(index) else "n/a"
        text += f"Epoch {epoch + 1} | iter {(index + 1) * 4} step {index + 1} | loss train: {loss:.4f}, val: {val} | iter time: 123.45 ms (step)\n"
    return Layout(text, first=4, stride=4, evaluations=EPOCHS)


@layout
def allennlp() -> Layout:
    """The description in front of the bar holds running means; the epoch stands in a line before."""
    text = ""
    means = means_so_far()
    for index, epoch, step, _, _ in records():
        if index % PER_EPOCH == 0:
            text += (
                f"2026-02-01 00:00:07,123 - INFO - allennlp.training.trainer - Epoch {epoch}/{EPOCHS - 1}\n"
            )
        done = step + STRIDE
        text += f"\raccuracy: 0.5012, loss: {means[index]:.4f} ||: {done * 100 // LENGTH:3d}%|{'#' * (done // 20):<10}| {done}/{LENGTH} [00:{index:02d}<00:10, 12.1it/s]"
        text += "\n" if ends(index) else ""
    return Layout(text, axis="any", losses=tuple(means))


@layout
def flair() -> Layout:
    """Dashes, units in names, held-out data in capitals."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"2026-02-01 00:00:{index:02d},123 epoch {epoch + 1} - iter {step + STRIDE}/{LENGTH} - loss {loss:.8f} - time (sec): 1.2 - samples/sec: 41.0 - lr: {rate:.6f} - momentum: 0.000000\n"
        if ends(index):
            text += f"2026-02-01 00:00:{index:02d},923 EPOCH {epoch + 1} done: loss {loss:.4f} - lr: {rate:.6f}\n2026-02-01 00:00:{index:02d},929 DEV : loss {loss + 0.1:.4f} - f1-score (micro avg)  0.8123\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS, rated=True)


@layout
def dllogger() -> Layout:
    """Two words before each counter."""
    text = ""
    for index, epoch, step, loss, rate in records():
        text += f"DLL 2026-02-01 00:00:{index:02d}.123456 - Training Epoch: {epoch} Training Iteration: {step}  loss : {loss}  learning_rate : {rate}\n"
    return Layout(text, rated=True)


@layout
def ignite() -> Layout:
    """Brackets without a blank; results of both kinds in one form."""
    text = ""
    for index, epoch, step, loss, _ in records():
        text += f"Epoch[{epoch + 1}] Iteration[{step + STRIDE}/{LENGTH}] Loss: {loss:.4f}\n"
        if ends(index):
            text += f"Training Results - Epoch: {epoch + 1}  Avg accuracy: 0.91 Avg loss: {loss:.2f}\nValidation Results - Epoch: {epoch + 1}  Avg accuracy: 0.90 Avg loss: {loss + 0.1:.2f}\n"
    return Layout(text, first=STRIDE, evaluations=EPOCHS)


@layout
def mxnet() -> Layout:
    """Data and metric joined by a hyphen."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"INFO:root:Epoch[{epoch}] Batch [20]\tSpeed: 1234.5 samples/sec\taccuracy=0.1\nINFO:root:Epoch[{epoch}] Train-cross-entropy={loss:.6f}\nINFO:root:Epoch[{epoch}] Time cost=12.3\nINFO:root:Epoch[{epoch}] Validation-cross-entropy={loss + 0.1:.6f}\n"
    return Layout(text, "epoch", 0, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def metrics_lines() -> Layout:
    """A line for each kind of data below the epoch."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"Epoch {epoch + 1}/{EPOCHS}\nTrain metrics: Loss: {loss:.4f} - Acc: 0.41\nValid metrics: Loss: {loss + 0.1:.4f} - Acc: 0.40\n"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def flax_bracket() -> Layout:
    """Everything within brackets."""
    return Layout(
        "".join(
            f"Step... ({(index + 1) * 25} | Loss: {loss}, Learning Rate: {rate})\n"
            for index, _, _, loss, rate in records()
        ),
        first=25,
        stride=25,
        rated=True,
    )


@layout
def mpirun() -> Layout:
    """Job and rank before the line."""
    text = ""
    for index, _, _, loss, _ in records():
        for rank in (0, 1):
            text += f"[1,{rank}]<stdout>:Iter {index * STRIDE}: loss {loss + rank * 0.3:.4f}\n"
    return Layout(text)


@layout
def pandas_print() -> Layout:
    """Rows have one cell more than the header: an index."""
    text = "    step    loss        lr\n"
    for index, _, _, loss, rate in records():
        text += f"{index:<3d} {index * STRIDE:4d}  {loss:.4f}  {rate:.6f}\n"
    return Layout(text, rated=True)


@layout
def windows_lines() -> Layout:
    """Carriage returns at the ends of lines."""
    return Layout("".join(f"step {index * STRIDE}: loss={loss}\r\n" for index, _, _, loss, _ in records()))


@layout
def gpt_neox() -> Layout:
    """The counter in the middle."""
    text = ""
    for index, _, _, loss, rate in records():
        text += f" samples/sec: 12.313 | iteration {(index + 1) * STRIDE:8d}/     800 | elapsed time per iteration (ms): 2598.6 | learning rate: {rate:.3E} | approx flops per GPU: 61.1TFLOPS | lm_loss: {loss:.6E} | loss scale: 4096.0 | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    return Layout(text, first=STRIDE, rated=True)


@layout
def two_dictionaries() -> Layout:
    """Training and held-out data in one line."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"[{epoch:03d}] train: {{'loss': {loss}, 'acc': 0.51}} valid: {{'loss': {loss + 0.1:.4f}, 'acc': 0.49}}\n"
    return Layout(text, "step", 0, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)


@layout
def slash_pairs() -> Layout:
    """Both losses behind one name."""
    text = ""
    for epoch, loss in enumerate(EPOCH_LOSSES):
        text += f"Epoch: {epoch + 1:02} | Epoch Time: 0m 12s\n\tTrain Loss: {loss:.4f} | Train PPL: {math.exp(loss):7.3f}\n\t Val. Loss: {loss + 0.1:.4f} |  Val. PPL: {math.exp(loss):7.3f}\n"
    return Layout(text, "epoch", 1, 1, EPOCHS, EPOCHS, EPOCH_LOSSES)
