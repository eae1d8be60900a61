"""Enroll and verify with exported networks: onnxruntime and numpy alone.

    python docs/examples/verify.py EXPORT PROFILES.npz LIVE.npz

EXPORT holds enroll.onnx and runtime.onnx; the .npz files hold raw embeddings: an array (N, D) for
each speaker to be enrolled, and one for each live utterance. Prints a log likelihood ratio a pair.
"""

import sys

import numpy as np
import onnxruntime


def open_side(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def mapped(side, embeddings):
    session, facts = side
    batch = np.atleast_2d(embeddings).mean(axis=0, keepdims=True).astype(np.float32)
    if batch.shape[1] != int(facts["input_dim"]):
        sys.exit(f"{batch.shape[1]} dimensions, but this network takes {facts['input_dim']}")
    return session.run(["mapped"], {"embedding": batch})[0][0]  # a profile is a mean, mapped then


export, profiles, live = sys.argv[1:]
enroll, runtime = (open_side(f"{export}/{name}.onnx") for name in ("enroll", "runtime"))
if enroll[1]["space"] != runtime[1]["space"]:
    sys.exit("the two networks are not of one aligner")
scale, offset = (float(enroll[1][f"calibration_{name}"]) for name in ("scale", "offset"))
for speaker, enrolled in np.load(profiles).items():
    for utterance, embedding in np.load(live).items():
        score = mapped(enroll, enrolled) @ mapped(runtime, embedding)
        print(speaker, utterance, f"{scale * score + offset:.4f}")
