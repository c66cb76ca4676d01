"""``lm-eval-ensemble fit-length``: the length bias of a diffusion model, from unlabelled code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import ConfigError

if TYPE_CHECKING:
    from lm_eval_ensemble.diffusion.confidence import Bias
    from lm_eval_ensemble.types import Cut

__all__ = ["add_arguments", "fit", "main"]

_CUTS: tuple[Cut, ...] = ("line", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint (Hub name or folder), or a preset's name: tiny")
    parser.add_argument(
        "--code",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help=".py files, folders of them, or JSONL with a column content, text or code; never what you evaluate on",
    )
    parser.add_argument("--output", type=Path, default=Path("length_bias.json"), help="file to write (default: %(default)s)")
    parser.add_argument("--gaps", type=int, default=200, help="gaps of each of the two kinds (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a gap and its context (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which gaps (default: %(default)s)")
    parser.add_argument(
        "--model_args",
        default="",
        metavar="NAME=VALUE,...",
        help="settings of diffusion-infill, e.g. dtype=float32,shift=false",
    )
    parser.add_argument("--batch_size", default="auto", help="rows at once (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Fit and write; say what came out."""
    from lm_eval_ensemble.config import preset_names
    from lm_eval_ensemble.diffusion.fit import read_code
    from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill

    if arguments.gaps < 20 or arguments.context < 32:
        raise ConfigError(f"--gaps {arguments.gaps} --context {arguments.context}: expected at least 20 gaps and 32 tokens.")
    texts = read_code(arguments.code)
    named = {"preset": arguments.model} if arguments.model in preset_names() else {"pretrained": arguments.model}
    settings = {**named, "length": "fixed:1", "batch_size": arguments.batch_size}
    member = DiffusionInfill.create_from_arg_string(arguments.model_args, settings)
    bias = fit(member, texts, gaps=arguments.gaps, context=arguments.context, seed=arguments.seed)
    bias.save(arguments.output)
    for cut, table in bias.tables.items():
        best = sorted(zip(table.bias, table.lengths, strict=True), reverse=True)[:3]
        print(
            f"cut={cut}: weights {table.confidence:g} (confidence), {table.one_line:g} (one_line); highest bias at "
            f"{', '.join(str(length) for _, length in best)} tokens"
        )
    print(f"{arguments.output}: {arguments.gaps} gaps of each kind from {len(texts)} texts, for model {bias.model}")
    return 0


def fit(member: Any, texts: list[str], *, gaps: int, context: int, seed: int) -> Bias:
    """The bias of a loaded ``DiffusionInfill``; the same texts, in any order, give the same one."""
    from lm_eval_ensemble.diffusion.confidence import Bias, fingerprint, newline_ids, read_signals
    from lm_eval_ensemble.diffusion.fit import digest, fit_table, make_gaps
    from lm_eval_ensemble.tokens import fit_window

    window, tables, newlines = min(context, member.window), {}, newline_ids(member.network)
    for cut in _CUTS:
        cut_gaps = []
        for gap in make_gaps(sorted(texts), cut, gaps, seed):
            prefix, middle, suffix = map(member.encoder.encode, (gap.prefix, gap.middle, gap.suffix))
            fitted = fit_window(prefix, suffix, window - min(len(middle), window // 2))
            cut_gaps.append((fitted.prefix, len(middle), fitted.suffix))
        tables[cut] = fit_table(
            cut_gaps,
            cut,
            window // 2,
            lambda probes: member._batcher.run(
                probes, lambda p: p.tokens, lambda batch: read_signals(member.network, batch, newlines), title=member.name
            ),
        )
    origin = {
        "texts": len(texts),
        "sha256": digest(texts),
        "gaps": gaps,
        "context": window,
        "seed": seed,
        "dtype": str(member.network.model.dtype),
    }
    return Bias(fingerprint(member.network.model), tables, origin)
