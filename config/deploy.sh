#!/bin/bash
# Puts imgcls on AWS, or brings a new version there: packs the release, uploads it, creates or updates the stack, prints the address.
# Run again with nothing changed it changes nothing.
#
#   config/deploy.sh [--stack NAME] --binary FILE [PARAMETER=VALUE…]
#
# Parameters are those of config/cloudformation/imgcls.yaml; those of an earlier deployment stay. Needs the AWS CLI, with region and
# credentials as it takes them. AWS_ENDPOINT_URL may name an emulator.
set -euo pipefail
export AWS_PAGER=
here=$(cd "$(dirname "$0")" && pwd)

stack=imgcls binary=
while [ $# -gt 0 ]; do
    case $1 in
    --stack) stack=$2 && shift 2 ;;
    --binary) binary=$2 && shift 2 ;;
    *=*) break ;;
    *)
        sed -n 's/^#   //p' "$0" >&2
        exit 2
        ;;
    esac
done
# Names of buckets are made of it, and have at most 63 characters.
[[ $stack =~ ^[a-z][a-z0-9-]{0,24}$ ]] || { echo "the stack's name '$stack' must be a-z, 0-9 and -, at most 25 of them" >&2 && exit 2; }
command -v aws >/dev/null || { echo "there is no aws command; https://aws.amazon.com/cli has it" >&2 && exit 2; }
[ -f "$binary" ] || { echo "no binary at '$binary'; make dist builds one, --binary FILE names it" >&2 && exit 2; }

region=$(aws configure get region || true)
region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$region}}
[ -n "$region" ] || { echo "no region; set AWS_REGION" >&2 && exit 2; }
export AWS_REGION=$region AWS_DEFAULT_REGION=$region
account=$(aws sts get-caller-identity --query Account --output text)
bucket=$stack-releases-$account-$region

# Whether there is a stack is told by the one error that says so: any other might be taken for a first deployment.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! status=$(aws cloudformation describe-stacks --stack-name "$stack" --query 'Stacks[0].StackStatus' --output text 2>"$work/error"); then
    grep -q "does not exist" "$work/error" || { echo "cannot look for stack $stack: $(cat "$work/error")" >&2 && exit 1; }
    status=
fi
# A stack whose creation failed cannot be updated, and has nothing.
if [ "$status" = ROLLBACK_COMPLETE ]; then
    echo "removing what is left of stack $stack, whose creation failed"
    aws cloudformation delete-stack --stack-name "$stack"
    aws cloudformation wait stack-delete-complete --stack-name "$stack"
    status=
fi
# Parameters that the stack was given stay. One in review was given none: its first deployment was cut short before it began.
case $status in
"" | REVIEW_IN_PROGRESS) set -- "TokenParameter=/$stack/token" "$@" ;;
esac

# The same files give the same archive, so that nothing is replaced for nothing.
install -m 755 "$binary" "$work/imgcls"
cp -R "$here/systemd" "$here/user-data" "$work/"
tar -C "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw,a-s -cf - imgcls systemd user-data |
    gzip -n >"$work/release.tar.gz"
release=$(sha256sum "$work/release.tar.gz" | cut -d ' ' -f 1)

if ! aws s3api head-bucket --bucket "$bucket" >/dev/null 2>&1; then
    echo "creating bucket $bucket for releases"
    aws s3 mb "s3://$bucket" >/dev/null
    aws s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
        BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
fi
if ! aws s3api head-object --bucket "$bucket" --key "releases/$release.tar.gz" >/dev/null 2>&1; then
    echo "uploading release $release"
    aws s3 cp --only-show-errors "$work/release.tar.gz" "s3://$bucket/releases/$release.tar.gz"
fi

# CloudFormation cannot make secrets of this kind, and a token in a parameter or in user data would be one for everybody to read.
if ! aws ssm get-parameter --name "/$stack/token" >/dev/null 2>&1; then
    echo "creating SSM parameter /$stack/token with a random token"
    printf '{"Name": "/%s/token", "Type": "SecureString", "Value": "%s"}' "$stack" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" \
        >"$work/token.json"
    aws ssm put-parameter --cli-input-json "file://$work/token.json" >/dev/null
fi

aws cloudformation deploy --stack-name "$stack" --template-file "$here/cloudformation/imgcls.yaml" --capabilities CAPABILITY_IAM \
    --no-fail-on-empty-changeset --parameter-overrides "ReleaseBucket=$bucket" "Release=$release" "$@"

output() {
    aws cloudformation describe-stacks --stack-name "$stack" --query "Stacks[0].Outputs[?OutputKey=='$1'].OutputValue" --output text
}
parameter() {
    aws cloudformation describe-stacks --stack-name "$stack" --output text \
        --query "Stacks[0].Parameters[?ParameterKey=='$1'].ParameterValue"
}
cat <<END

page:  $(output Page)
token: aws ssm get-parameter --region $region --with-decryption --name $(output Token) --query Parameter.Value --output text

A new instance answers a minute or two after it was started.
END
if [ -z "$(parameter DomainName)$(parameter AccessCidr)" ]; then
    cat <<END
Nobody reaches the page yet: without a domain it is plain HTTP, so it is open to those only who are named. For this machine alone:
  make deploy STACK=$stack PARAMETERS="AccessCidr=\$(curl -sS https://checkip.amazonaws.com)/32"
END
fi
