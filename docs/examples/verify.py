"""Enroll and verify with exported networks: onnxruntime and numpy only.

    python docs/examples/verify.py EXPORT PROFILES.npz TEST.npz

EXPORT holds enroll.onnx and runtime.onnx; the .npz files hold raw embeddings: an array (N, D) for
each speaker to be enrolled, and one for each test utterance; and model_fingerprint, a string that
names their model. Prints a natural-log likelihood ratio for each pair, and, where a threshold was
exported, the decision.
"""

import sys

import numpy as np
import onnxruntime

# Metadata that belong to a pair of models, so that both networks of an export have the same.
OF_THE_PAIR = [
    "pair",
    "calibration_scale",
    "calibration_offset",
    "threshold",
    "unsure_from",
    "unsure_to",
]


def open_side(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def read(path, side):
    arrays, wanted = dict(np.load(path)), side[1]["model_fingerprint"]
    given = str(arrays.pop("model_fingerprint", "unknown"))
    known = "unknown" not in (given, wanted) and not given.startswith("arks:")  # of vectors alone
    if known and given != wanted:
        sys.exit(f"{path}: of another model than {wanted}")
    return arrays


def mapped(side, name, embeddings):
    session, facts = side
    batch = np.atleast_2d(embeddings).mean(axis=0, keepdims=True).astype(np.float32)
    if batch.shape[1] != int(facts["input_dim"]):
        sys.exit(f"{batch.shape[1]} dimensions, but this network takes {facts['input_dim']}")
    vector = session.run(["mapped"], {"embedding": batch})[0][0]  # a profile: averaged, then mapped
    if not np.isfinite(vector).all():
        sys.exit(f"{name}: its embedding has no direction (zero?); extract it again")
    return vector


def decided(score, facts):
    """By the threshold that was carried over, where the export has one (`nessa threshold`)."""
    if "threshold" not in facts:
        return ""
    if float(facts.get("unsure_from", "inf")) <= score < float(facts.get("unsure_to", "-inf")):
        return " unsure"
    return " accept" if score >= float(facts["threshold"]) else " reject"


export, profiles, tests = sys.argv[1:]
enroll, runtime = (open_side(f"{export}/{name}.onnx") for name in ("enroll", "runtime"))
if enroll[1]["space"] != runtime[1]["space"]:
    sys.exit("the two networks are of different aligners")
for fact in OF_THE_PAIR:  # after an update of one side, the other network still has the old pair's
    if enroll[1].get(fact) != runtime[1].get(fact):
        sys.exit(f"the two networks differ in {fact}; deploy both files of one export")
if "calibration_scale" not in enroll[1]:
    sys.exit("exported without a calibration; nessa export --calibration adds one")
scale, offset = (float(enroll[1][f"calibration_{name}"]) for name in ("scale", "offset"))
for speaker, enrolled in read(profiles, enroll).items():
    for utterance, embedding in read(tests, runtime).items():
        score = float(mapped(enroll, speaker, enrolled) @ mapped(runtime, utterance, embedding))
        print(speaker, utterance, f"{scale * score + offset:.4f}" + decided(score, enroll[1]))
