#!/bin/sh
# Runs one of the operators' commands in the cluster, as a Job like `apply`, and shows what it says:
#   sh deploy/k8s/command.sh dlq list
# NAMESPACE says where the gateway is (default: morpheus). It ends as the command ended; a command that failed is not
# repeated. Its Job is taken away, unless it still runs: then this says how to look at it.
set -eu

if [ $# -eq 0 ]; then
    echo "usage: [NAMESPACE=morpheus] sh $0 COMMAND [ARGUMENT]…" >&2
    exit 2
fi
namespace=${NAMESPACE:-morpheus}
job=command-$(date +%s)-$$

args=
for word in "$@"; do
    case $word in
    *[\"\\]* | *[[:cntrl:]]*)
        echo "$0: an argument with a quotation mark, a backslash or a control character cannot be passed on" >&2
        exit 2
        ;;
    esac
    args="$args${args:+, }\"$word\""
done

# the image, the secrets, the settings and the way to bus and databases are those of `apply`
of=app.kubernetes.io
labels="{\"$of/name\": \"apply\", \"$of/component\": \"job\", \"$of/part-of\": \"morpheus\"}"
patch="[
  {\"op\": \"replace\", \"path\": \"/metadata\", \"value\": {\"name\": \"$job\", \"namespace\": \"$namespace\", \"labels\": $labels}},
  {\"op\": \"replace\", \"path\": \"/spec/template/metadata\", \"value\": {\"labels\": $labels}},
  {\"op\": \"replace\", \"path\": \"/spec/template/spec/restartPolicy\", \"value\": \"Never\"},
  {\"op\": \"replace\", \"path\": \"/spec/template/spec/containers/0/args\", \"value\": [$args]},
  {\"op\": \"add\", \"path\": \"/spec/backoffLimit\", \"value\": 0},
  {\"op\": \"add\", \"path\": \"/spec/selector\", \"value\": null},
  {\"op\": \"add\", \"path\": \"/status\", \"value\": {}}
]"
model=$(kubectl -n "$namespace" get job apply -o json)
changed=$(printf '%s' "$model" | kubectl patch --local -f - --type json --patch "$patch" -o json)
printf '%s' "$changed" | kubectl -n "$namespace" create -f - >/dev/null

state() {
    kubectl -n "$namespace" get job "$job" -o 'jsonpath={.status.conditions[?(@.status=="True")].type}'
}
still_runs() {
    echo "$0: $1; kubectl -n $namespace describe job/$job says more, and kubectl -n $namespace logs -f job/$job what it does" >&2
    exit 3
}
trap 'still_runs "left while it runs"' INT TERM
kubectl -n "$namespace" logs -f --pod-running-timeout=5m "job/$job" || still_runs "it has not begun"
tries=60
while true; do
    case $(state) in
    *Complete*) status=0 && break ;;
    *Failed*) status=1 && break ;;
    esac
    tries=$((tries - 1))
    [ $tries -gt 0 ] || still_runs "nothing says how it ended"
    sleep 1
done
kubectl -n "$namespace" delete job "$job" --wait=false >/dev/null
exit $status
