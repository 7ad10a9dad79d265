#!/bin/bash
# Takes imgcls off AWS, with all its data: says what goes, asks, stops the machines, empties the buckets, deletes the stack, the
# releases and the token.
#
#   config/undeploy.sh [--stack NAME] [--yes]
#
# Needs the AWS CLI, with region and credentials as it takes them. AWS_ENDPOINT_URL may name an emulator.
set -euo pipefail
export AWS_PAGER=

stack=imgcls yes=
while [ $# -gt 0 ]; do
    case $1 in
    --stack) stack=$2 && shift 2 ;;
    --yes) yes=1 && shift ;;
    *)
        sed -n 's/^#   //p' "$0" >&2
        exit 2
        ;;
    esac
done

region=$(aws configure get region || true)
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$region}}
[ -n "$region" ] || { echo "no region; set AWS_REGION" >&2 && exit 2; }
export AWS_REGION=$region AWS_DEFAULT_REGION=$region
account=$(aws sts get-caller-identity --query Account --output text)
releases=$stack-releases-$account-$region

# The stack may be gone already after an undeployment that was cut short; what is left still goes.
if ! stack_id=$(aws cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].StackId' --output text 2>&1); then
    [[ $stack_id == *"does not exist"* ]] || { echo "$stack_id" >&2 && exit 1; }
    stack_id=
fi
resource() {
    local found
    found=$(aws cloudformation describe-stack-resource --stack-name "$stack" --logical-resource-id "$1" --output text \
        --query 'StackResourceDetail.[ResourceStatus, PhysicalResourceId]' 2>/dev/null || true)
    case $found in
    DELETE_COMPLETE* | *None) ;;
    *) cut -f 2 <<<"$found" ;;
    esac
}
images=$(resource Images) outputs=$(resource Outputs) queue=$(resource Queue) dead=$(resource DeadLetters) table=$(resource Table)
app=$(resource AppFleet) web=$(resource WebFleet) certificate=$(resource Certificate)

objects() {
    local keys
    keys=$(aws s3api list-objects-v2 --bucket "$1" --max-items 1000 --query 'Contents[].Key' --output json | grep -c '^ ' || true)
    if [ "$keys" -ge 1000 ]; then echo "1000 objects or more"; else echo "$keys objects"; fi
}
# The AWS CLI's first version takes no endpoint for SQS from the environment.
messages() {
    aws ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} sqs get-queue-attributes --queue-url "$1" \
        --attribute-names ApproximateNumberOfMessages --query Attributes.ApproximateNumberOfMessages --output text
}
echo "This deletes stack $stack in account $account, $region, and with it for ever:"
[ -z "$images" ] || echo "  s3://$images: $(objects "$images"), the images"
[ -z "$outputs" ] || echo "  s3://$outputs: $(objects "$outputs"), the results as JSON"
[ -z "$table" ] || echo "  table $table: the results"
[ -z "$queue" ] || echo "  queue $queue: $(messages "$queue") messages"
[ -z "$dead" ] || echo "  queue $dead: $(messages "$dead") dead letters"
[ -z "$stack_id" ] || echo "  logs below /imgcls/$stack/"
echo "  s3://$releases and SSM parameter /$stack/token, the releases and the token"
if [ -z "$yes" ]; then
    read -r -p "Type the stack's name to go on: " answer || true
    [ "$answer" = "$stack" ] || { echo "nothing was deleted" >&2 && exit 1; }
fi

# Nobody may write while the buckets are emptied.
instances() {
    aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names "$1" --output text \
        --query "AutoScalingGroups[].Instances[$2].InstanceId"
}
# Workers that have work protect themselves from scale-in, and may do so again until they are told to end.
unprotect() {
    # So many in one call at most.
    instances "$1" '?ProtectedFromScaleIn' | xargs -r -n 50 aws autoscaling set-instance-protection \
        --auto-scaling-group-name "$1" --no-protected-from-scale-in --instance-ids || true
}
for group in $web $app; do
    aws autoscaling update-auto-scaling-group --auto-scaling-group-name "$group" --min-size 0 --max-size 0 --desired-capacity 0
    unprotect "$group"
done
for group in $web $app; do
    for _ in $(seq 60); do
        [ -n "$(instances "$group" '')" ] || break
        echo "waiting for the instances of $group to end"
        sleep 5
        unprotect "$group"
    done
done

for bucket in $images $outputs; do
    aws s3 rm --only-show-errors --recursive "s3://$bucket"
done
# A table that is deleted with recovery on leaves a backup behind for 35 days.
[ -z "$table" ] ||
    aws dynamodb update-continuous-backups --table-name "$table" >/dev/null \
        --point-in-time-recovery-specification PointInTimeRecoveryEnabled=false ||
    echo "cannot switch the recovery of table $table off; DynamoDB keeps a backup of it for 35 days" >&2
if [ -n "$stack_id" ]; then
    aws cloudformation delete-stack --stack-name "$stack_id"
    aws cloudformation wait stack-delete-complete --stack-name "$stack_id"
fi
if aws s3api head-bucket --bucket "$releases" >/dev/null 2>&1; then
    aws s3 rb --force "s3://$releases" >/dev/null
fi
if aws ssm get-parameter --name "/$stack/token" >/dev/null 2>&1; then
    aws ssm delete-parameter --name "/$stack/token"
fi
echo "stack $stack is gone"
[ -z "$certificate" ] ||
    echo "the record that validated its certificate stays in your zone, since other certificates of the name may need it"
