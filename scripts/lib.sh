# Shared by the scripts: messages with times, and Docker. Sourced, not run.
# shellcheck shell=bash

started=$(date +%s%N)

# Seconds since the script began, with tenths.
elapsed() {
    local tenths=$((($(date +%s%N) - started) / 100000000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

step() { printf '%6ss  %s\n' "$(elapsed)" "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

docker_answers() { docker version >/dev/null 2>&1; }

# Waits up to $1 seconds for the command that follows.
wait_for() {
    local deadline=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}
