#!/bin/bash
# Brings a new instance up. Its user data has fetched and checked the release that this is a part of, has written
# /etc/imgcls/imgcls.env and web.env (the configuration) and boot.env (what this script wants to know), and runs it once, as root.
#
# On Amazon Linux 2023 a worker takes its first message well within 40 s of its launch: 15 to 20 s until user data runs, 3 s to fetch,
# check and unpack 40 MB from S3 in the same region, 1 s to start, load the model and warm up. Logs are seen to after that.
set -euo pipefail

release=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
etc=/etc/imgcls
units=/etc/systemd/system
# shellcheck source=/dev/null # written at launch
. "$etc/imgcls.env"
# shellcheck source=/dev/null
. "$etc/boot.env"

# metadata PATH: what the instance knows of itself, by version 2 of the service.
metadata() {
    local service=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} token
    token=$(curl -sSf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$service/latest/api/token") || return
    curl -sSf -m 5 -H "X-aws-ec2-metadata-token: $token" "$service/latest/meta-data/$1"
}

# secret VARIABLE PARAMETER: hands a secret from SSM to the service, in a file that only root reads.
secret() {
    local value
    value=$(aws ssm get-parameter --region "$AWS_REGION" --with-decryption --name "$2" --query Parameter.Value --output text)
    if ! [[ $value =~ ^[A-Za-z0-9._~+/=-]+$ ]]; then
        echo "SSM parameter $2 must be letters, digits and . _ ~ + / = - only" >&2
        return 1
    fi
    (umask 077 && printf '%s=%s\n' "$1" "$value" >>"$etc/secrets.env")
}

# again SECONDS COMMAND...: runs a command until it goes well, with longer and longer pauses, for so long at most.
again() {
    local end=$((SECONDS + $1)) pause=1
    shift
    until "$@"; do
        [ $((SECONDS + pause)) -lt "$end" ] || return 1
        sleep "$pause"
        [ "$pause" -ge 16 ] || pause=$((pause * 2))
    done
}

# complete RESULT: completes the hook that waits for this instance.
complete() {
    local id
    id=$(metadata instance-id) || return
    aws autoscaling complete-lifecycle-action --region "$AWS_REGION" --auto-scaling-group-name "$LAUNCH_GROUP" \
        --lifecycle-hook-name "$LAUNCH_HOOK" --instance-id "$id" --lifecycle-action-result "$1"
}

# launched RESULT: says to the group whether the instance goes into service, where a hook waits for that.
launched() {
    [ -n "${LAUNCH_HOOK:-}" ] || return 0
    again 120 complete "$1" || echo "cannot tell $LAUNCH_GROUP $1; hook $LAUNCH_HOOK gives this instance up at its time-out" >&2
}

# ship_logs UNIT...: sends what the units write to the journal to CloudWatch.
ship_logs() {
    local config=/opt/aws/amazon-cloudwatch-agent/etc/imgcls.json listed
    dnf install -y -q amazon-cloudwatch-agent
    listed=$(printf '"%s",' "$@")
    cat >"$config" <<END
{"logs": {"logs_collected": {"journald": {"collect_list": [
  {"log_group_name": "$LOG_GROUP", "log_stream_name": "{instance_id}", "units": [${listed%,}]}]}}}}
END
    /opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s -c "file:$config"
}

# Whatever fails until the services run, the group learns of it at once and does not wait for the hook's time-out.
ended() {
    [ "$1" -eq 0 ] || launched ABANDON
}
trap 'ended $?' EXIT

install -m 755 "$release/imgcls" /usr/local/bin/imgcls
rm -f "$etc/secrets.env"
case $ROLE in
web)
    services=(imgcls-serve.service)
    [ "$SCALER" != timer ] || services+=(imgcls-scale.timer)
    secret IMGCLS_WEB_TOKEN "$TOKEN_PARAMETER"
    [ -z "$ADMIN_TOKEN_PARAMETER" ] || secret IMGCLS_WEB_ADMIN_TOKEN "$ADMIN_TOKEN_PARAMETER"
    ;;
app)
    services=(imgcls-work.service)
    ;;
*)
    echo "ROLE is ${ROLE}; it must be web or app" >&2
    exit 1
    ;;
esac
install -m 644 "$release"/systemd/* "$units/"
systemctl daemon-reload
# Returns when the services have said that they are ready: the model is loaded, the stores are reached.
systemctl enable --now "${services[@]}"
# What fails from here on is no reason to lose a machine that serves.
trap - EXIT
launched CONTINUE

ship_logs "${services[@]/%.timer/.service}" || echo "logs stay in the journal of this instance" >&2
