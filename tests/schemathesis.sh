#!/bin/sh
# Installs the pinned schemathesis into the directory that is given, once, and prints its program.
# Needs Python 3 with venv, and PyPI the first time.
set -eu
dir=$1
mkdir -p "$dir"
package='schemathesis==4.32.5'
exec 9>"$dir/lock"
flock 9
if [ "$(cat "$dir/installed" 2>/dev/null)" != "$package" ]; then
    python3 -m venv "$dir/venv" >&2
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "$package" >&2
    printf '%s' "$package" >"$dir/installed"
fi
printf '%s\n' "$dir/venv/bin/schemathesis"
