"""Encode every action text of some shards once, into a table that training looks up.

    python -m data_tools.encode_text data/doom/latents/train data/doom/latents/val \
        --encoder minilm --out data/doom/latents/text.safetensors

Training then takes `class_path: sfv.models.text_table.TextTable` with `file:` and loads no text model.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from sfv.data.index import ShardError, find_shards
from sfv.data.schema import SchemaError
from sfv.data.shards import read_shard
from sfv.files import check_writable
from sfv.models.text import CLIPText, MiniLMText
from sfv.models.text_table import write_text_table
from sfv.texts import printable


def texts_of(shards: list[Path]) -> set[str]:
    """Every different action text in some folders of shards.

    Raises:
        ShardError: a folder holds no shards, or damaged ones.
    """
    texts = set()
    for folder in shards:
        index = find_shards(folder)
        for shard in tqdm(index.shards, desc=f"texts of {index.split}", unit="shard"):
            for sample in read_shard(index.folder / shard.name, shard):
                texts |= {action.text for action in sample.meta.actions}
    return texts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m data_tools.encode_text",
        description="Encode the action texts of shards into a table that training looks up.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("shards", type=Path, nargs="+", help="folders of shards: all that are in use")
    p.add_argument("--out", type=Path, required=True, help="the table, a .safetensors file")
    p.add_argument("--encoder", choices=("minilm", "clip"), default="minilm")
    p.add_argument("--folder", type=Path, help="model and tokenizer; clip needs it")
    p.add_argument("--max-tokens", type=int, help="tokens of a text; none: the encoder's default")
    p.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="float32: the encoder's very states; float16: half the disk",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    limit = {} if args.max_tokens is None else {"max_tokens": args.max_tokens}
    try:
        if args.encoder == "clip" and args.folder is None:
            raise ValueError("--encoder clip needs --folder, a folder with a CLIP text model")
        check_writable(args.out.parent)
        make = CLIPText if args.encoder == "clip" else MiniLMText
        encoder = make(args.folder, **limit)
        num = write_text_table(args.out, encoder, texts_of(args.shards), args.dtype)
    except (SchemaError, ShardError, ValueError, OSError) as error:
        print(f"error: {printable(error, keep=chr(10))}", file=sys.stderr)
        return 2
    size = args.out.stat().st_size / 1e6
    print(
        f'{num} texts ("no text" among them) by {encoder.fingerprint()}: {args.out}, {size:.1f} MB'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
