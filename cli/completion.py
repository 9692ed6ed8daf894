"""Shell completion from the parsers themselves, without loading torch.

    eval "$(python -m cli.completion bash)"        also zsh; for fish: python -m cli.completion fish | source
    eval "$(_EDGE_CLOUD_COMPLETE=bash edgecloud-edge)"        the same of an installation

The shell calls the program that is on its line, with the words up to the cursor and `_EDGE_CLOUD_COMPLETE=1`, and the
program's parser answers instead of running it: a line for each word that fits. No answer leaves it to the shell, which
then completes names of files. With the name of a shell in the variable the answer is what that shell has to read.
docs/deploy.md has how to turn it on.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from edgecloud.cli.flags import NETWORKS
from edgecloud.cli.settings import leaf
from edgecloud.utils.names import COMMANDS

VARIABLE = "_EDGE_CLOUD_COMPLETE"
PROGRAMS = ("edge_api.py", "cloud_api.py", "tasks_edge_api.py", "tasks_cloud_api.py", "deployment.py")
VALUES: dict[str, tuple[str, ...]] = {
    "type": NETWORKS,
    "models": NETWORKS,
    "model": NETWORKS,
    "networks": NETWORKS,
    "device": ("cpu", "cuda", "mps"),
    "weights": ("default", "imagenet"),
    "codec": ("auto", "raw", "zstd", "pixels+zstd", "fp16+zstd", "int8+zstd", "jpeg"),
    "power": ("raspberry_pi_4", "jetson_tk1"),
    "radio": ("3g", "4g", "wifi"),
    "mode": ("auto", "hosts", "emulated"),
    "points": ("all", "auto", "contenders"),
    "baselines": (
        "auto",
        "auto-raw",
        "all-edge",
        "all-cloud",
        "all-cloud-8bit",
        "all-cloud-jpeg",
        "all-cloud-in-budget",
        "neurosurgeon",
        "dads",
        "static-best",
        "ans",
    ),
    "objective": ("latency", "energy"),
}
"""By the `dest` of flags without choices of their own: what they take, of which several may stand with commas."""


def candidates(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """What the last word may become, whole; nothing where that is a name of a file, or anything."""
    *before, prefix = words or [""]
    command = leaf(parser, before)
    flags = {**parser._option_string_actions, **command._option_string_actions}
    name, equals, begun = prefix.partition("=")
    if equals and name in flags:
        return [f"{name}={value}" for value in _values(flags[name], begun)]
    last = flags.get(before[-1]) if before else None
    if last is not None and last.nargs != 0:
        return _values(last, prefix)
    if prefix.startswith("-"):
        return _beginning(prefix, (flag for flag, action in flags.items() if action.help != argparse.SUPPRESS))
    commands = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    return [each for action in commands for each in _beginning(prefix, action.choices)]


def _values(action: argparse.Action, begun: str) -> list[str]:
    if action.choices is not None:
        return _beginning(begun, map(str, action.choices))
    rest, comma, last = begun.rpartition(",")
    return [f"{rest}{comma}{each}" for each in _beginning(last, VALUES.get(action.dest, ()))]


def _beginning(prefix: str, words: Iterable[str]) -> list[str]:
    """Those that begin with it; of flags the long ones, unless only short ones are there."""
    matches = sorted({word for word in words if word.startswith(prefix)})
    return [word for word in matches if word.startswith("--") or not word.startswith("-")] or matches


def answer(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Print what may follow, a line for each."""
    if not _answer_shell():
        sys.stdout.write("".join(f"{word}\n" for word in candidates(parser, words)))


def answer_commands(words: Sequence[str], names: Iterable[str]) -> bool:
    """The same for the first word, where that is one of so many commands; False where it is there already."""
    if _answer_shell():
        return True
    if len(words) > 1:
        return False
    sys.stdout.write("".join(f"{name}\n" for name in _beginning("".join(words), names)))
    return True


def _answer_shell() -> bool:
    """Print what a shell has to read, where that is what is asked for."""
    shell = os.environ.get(VARIABLE, "")
    if shell in SHELLS:
        sys.stdout.write(script(shell))
    return shell in SHELLS


# --- what the shells are told

BASH = """
_edge_cloud() {
    local line="${COMP_LINE:0:COMP_POINT}" words current shared count=1
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    COMPREPLY=()
    case "${words[0]##*/}" in
        python | python3*)
            case "${words[1]##*/}" in
                -m) [[ "${words[2]}" == lab ]] || return; count=3 ;;
                @PROGRAMS@) count=2 ;;
                *) return ;;
            esac ;;
    esac
    ((${#words[@]} > count)) || return
    current="${words[-1]}"
    shared="${current%"${current##*[:=]}"}"
    local IFS=$'\\n'
    COMPREPLY=($(@VARIABLE@=1 "${words[@]:0:count}" "${words[@]:count}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$shared"}")
}
complete -o bashdefault -o default -F _edge_cloud python python3 @NAMES@
"""
ZSH = """
(($+functions[compdef])) || { autoload -Uz compinit && compinit -u }
_edge_cloud() {
    local count=1
    local -a found
    case "${words[1]:t}" in
        python | python3*)
            case "${words[2]:t}" in
                -m) [[ "${words[3]}" == lab ]] || { _files; return }; count=3 ;;
                @PROGRAMS@) count=2 ;;
                *) _files; return ;;
            esac ;;
    esac
    found=("${(@f)$(@VARIABLE@=1 "${(@Q)words[1,CURRENT]}" 2>/dev/null)}")
    if ((CURRENT > count)) && [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
compdef _edge_cloud python python3 @NAMES@
"""
FISH = """
function __edge_cloud
    set -l words (commandline -opc) (commandline -ct)
    switch (path basename -- $words[1])
        case python 'python3*'
            if test "$words[2]" = -m
                test "$words[3]" = lab; and test (count $words) -gt 3; or return
            else
                contains -- (path basename -- $words[2]) @SPACED@; and test (count $words) -gt 2; or return
            end
    end
    @VARIABLE@=1 command $words 2>/dev/null
end
for each in python python3 @NAMES@
    complete -c $each -a '(__edge_cloud)'
end
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def script(shell: str) -> str:
    """What a shell has to read to complete our command lines."""
    words = {"@PROGRAMS@": " | ".join(PROGRAMS), "@VARIABLE@": VARIABLE, "@SPACED@": " ".join(PROGRAMS)}
    words["@NAMES@"] = " ".join([*PROGRAMS, *COMMANDS.values()])
    text = SHELLS[shell].lstrip()
    for mark, value in words.items():
        text = text.replace(mark, value)
    return text


def main(arguments: Sequence[str]) -> int:
    """Print the script of a shell."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        sys.stderr.write(f"usage: python -m edgecloud.cli.completion {'|'.join(SHELLS)}\n")
        return 2
    sys.stdout.write(script(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
