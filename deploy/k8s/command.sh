#!/bin/sh
# Runs one of the operators' commands in the cluster, as a Job like `apply`, and shows what it says:
#   sh deploy/k8s/command.sh dlq list
# NAMESPACE says where the gateway is (default: morpheus). It ends with the command's exit status; a command that failed is
# not repeated. Its Job is taken away, unless it is not known how it ended: then this says how to look at it, and ends with 75.
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

pod() {
    # what cannot be asked now is asked again
    kubectl -n "$namespace" get pods -l "batch.kubernetes.io/job-name=$job" -o "jsonpath={.items[*].status.$1}" || true
}
still_runs() {
    echo "$0: $1; kubectl -n $namespace describe job/$job says more, and kubectl -n $namespace logs -f job/$job what it does" >&2
    exit 75
}
trap 'still_runs "left while it runs"' INT TERM

# a pod that no node has taken has an empty log, and no error says so
until=$(($(date +%s) + 300))
while true; do
    case $(pod phase) in Running | Succeeded | Failed) break ;; esac
    [ "$(date +%s)" -lt "$until" ] || still_runs "it has not begun"
    sleep 1
done
kubectl -n "$namespace" logs -f "job/$job" || still_runs "what it says cannot be shown"
until=$(($(date +%s) + 60))
while true; do
    status=$(pod 'containerStatuses[?(@.name=="apply")].state.terminated.exitCode')
    [ -z "$status" ] || break
    [ "$(date +%s)" -lt "$until" ] || still_runs "nothing says how it ended"
    sleep 1
done
kubectl -n "$namespace" delete job "$job" --wait=false >/dev/null || true
exit "$status"
