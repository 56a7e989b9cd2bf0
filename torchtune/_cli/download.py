"""``tune download``"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

_EPILOG = """examples:
  # a model of the Hugging Face hub, into /tmp/Llama-3.2-1B-Instruct
  $ tune download meta-llama/Llama-3.2-1B-Instruct --hf-token <TOKEN>
  Successfully downloaded model repo and wrote to the following locations:
  /tmp/Llama-3.2-1B-Instruct/config.json
  ...

  # a mirror: the variable of huggingface_hub
  $ HF_ENDPOINT=https://mirror.example tune download Qwen/Qwen2.5-0.5B-Instruct

  # from Kaggle, with its handle <owner>/<model>/<framework>/<variation>
  $ tune download metaresearch/llama-3.2/pytorch/1b --source kaggle

Gated models need a token (https://huggingface.co/settings/tokens) and their licence accepted on the model's page.
"""


def add(subparsers: argparse._SubParsersAction) -> None:
    """Adds ``download`` to the parser of ``tune``."""
    parser = subparsers.add_parser(
        "download",
        prog="tune download",
        usage="tune download <repo-id> [OPTIONS]",
        help="Download a model from the Hugging Face or Kaggle hub",
        description="Download a model's weights, config and tokenizer from the Hugging Face or Kaggle hub.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo_id", type=str, help="name of the repository on the Hugging Face hub, or Kaggle's handle")
    parser.add_argument(
        "--output-dir", type=Path, default=None, help="folder to write to; default /tmp/<model>. Hugging Face only"
    )
    parser.add_argument(
        "--hf-token", type=str, default=os.getenv("HF_TOKEN"), help="token for gated models; default $HF_TOKEN"
    )
    parser.add_argument(
        "--ignore-patterns",
        type=str,
        default=None,
        help="leave out files that match this pattern, such as '*.safetensors'. Hugging Face only",
    )
    parser.add_argument("--source", type=str, default="huggingface", choices=["huggingface", "kaggle"])
    parser.add_argument("--kaggle-username", type=str, default=None, help="Kaggle user, for models with access control")
    parser.add_argument("--kaggle-api-key", type=str, default=None, help="Kaggle key, for models with access control")
    parser.set_defaults(func=lambda args: download(args, parser))


def download(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Downloads a model and prints the files, or ends with an error of the parser that says why not."""
    fetch = _from_kaggle if args.source == "kaggle" else _from_huggingface
    folder = fetch(args, parser)
    print("Successfully downloaded model repo and wrote to the following locations:")
    for file in sorted(p for p in Path(folder).rglob("*") if ".cache" not in p.relative_to(folder).parts):
        print(file)


def _from_huggingface(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    output_dir = args.output_dir or Path("/tmp") / args.repo_id.split("/")[-1]
    if args.ignore_patterns:
        print(f"Ignoring files matching the following patterns: {args.ignore_patterns}")
    try:
        return huggingface_hub.snapshot_download(
            args.repo_id,
            local_dir=output_dir,
            ignore_patterns=args.ignore_patterns or None,
            token=args.hf_token,
        )
    except GatedRepoError:
        if args.hf_token:
            parser.error(
                "It looks like you are trying to access a gated repository. Please ensure you have access to the "
                f"repository: accept its licence at https://huggingface.co/{args.repo_id} with the account of this token."
            )
        parser.error(
            "It looks like you are trying to access a gated repository. Please ensure you have access to the repository "
            "and have provided the proper Hugging Face API token using the option `--hf-token` or by running "
            "`hf auth login`. You can find your token at https://huggingface.co/settings/tokens"
        )
    except RepositoryNotFoundError:
        parser.error(
            f"Repository '{args.repo_id}' not found on the Hugging Face Hub. Check its name (owner/model); a private one "
            "needs --hf-token."
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        parser.error(f"Failed to download {args.repo_id}: {error}")


def _from_kaggle(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    try:
        import kagglehub
        from kagglehub.exceptions import KaggleApiHTTPError
    except ImportError:
        parser.error("--source kaggle needs the package kagglehub: pip install kagglehub")
    _warn_kaggle_options(args, parser)
    try:
        return kagglehub.model_download(args.repo_id)
    except KaggleApiHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            parser.error(
                "It looks like you are trying to access a gated model. Please ensure you have access to the model and have "
                "provided the proper Kaggle credentials using the options `--kaggle-username` and `--kaggle-api-key`. "
                "You can also set these to environment variables as detailed in "
                "https://github.com/Kaggle/kagglehub/blob/main/README.md#authenticate."
            )
        if status == 404:
            parser.error(
                f"'{args.repo_id}' not found on the Kaggle Model Hub. A handle is <owner>/<model>/<framework>/<variation>."
            )
        parser.error(f"Failed to download {args.repo_id} with error: '{error}'")
    except (OSError, ValueError) as error:
        parser.error(f"Failed to download {args.repo_id} with error: '{error}'")


def _warn_kaggle_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.output_dir is not None:
        warnings.warn(
            "--output-dir flag is not supported for Kaggle model downloads. This argument will be ignored; the cache "
            "folder of kagglehub is printed at the end.",
            stacklevel=2,
        )
    if args.ignore_patterns is not None:
        warnings.warn(
            "--ignore-patterns flag is not supported for Kaggle model downloads. This argument will be ignored.",
            stacklevel=2,
        )
    _set_kaggle_credentials(args, parser)
    framework = args.repo_id.split("/")[2:3]
    if framework and framework[0].lower() not in ("pytorch", "transformers"):
        warnings.warn(
            f"Requested Kaggle model handle {args.repo_id} is for {framework[0]} and may not be compatible with torchtune, "
            "which reads weights for pytorch and transformers.",
            stacklevel=2,
        )


def _set_kaggle_credentials(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if not args.kaggle_username and not args.kaggle_api_key:
        return  # kagglehub looks in the environment and in ~/.kaggle
    username = args.kaggle_username or os.getenv("KAGGLE_USERNAME")
    key = args.kaggle_api_key or os.getenv("KAGGLE_KEY")
    if not (username and key):
        parser.error("--kaggle-username and --kaggle-api-key go together, got only one of them")
    from kagglehub.config import set_kaggle_credentials

    try:
        set_kaggle_credentials(username, key)
    except Exception as error:  # whatever kagglehub dislikes, an open model still downloads
        warnings.warn(f"Failed to set Kaggle credentials with error: '{error}'", stacklevel=2)
