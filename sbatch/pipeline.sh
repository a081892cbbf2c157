#!/bin/bash
# Submit what is left of a chain or a sweep, each job behind those whose results or samples it needs; from the repository's root:
#   sbatch/pipeline.sh configs/arithmetic/pipeline.yaml [options of stepneg pipeline]
# TASKS      tasks of each job array: 4; 64%8 for 64, of which 8 run at a time
# DRAW, FIT  options of sbatch for whatever samples or tests, and for fits: FIT="--nodes=2 --ntasks-per-node=4"
# SBATCH_*   sbatch's own, for all jobs: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_GPUS_PER_NODE
set -euo pipefail
config=${1:?which chain? For example sbatch/pipeline.sh configs/arithmetic/pipeline.yaml}
verb=pipeline
if grep -q '^sizes:' "$config"; then verb=sweep; fi
chain=("$verb" --config "$@")
jobs=$(stepneg "${chain[@]}" --jobs) # options of every run are parsed: a mistake shows here and not in the queue
if [ -z "$jobs" ]; then
    echo "every run is done; the tables: stepneg ${chain[*]}"
    exit
fi
mapfile -t names < <(cut -d' ' -f1 <<< "$jobs")
labels=("${names[@]//[\/:]/.}") # as file names
queued=$(squeue --me --noheader --format=%j | grep -xF -f <(printf '%s\n' "${labels[@]}") || true)
if [ -n "$queued" ]; then
    echo "in the queue already: ${queued//$'\n'/ }; wait for its end, or cancel it (squeue --me)" >&2
    exit 2
fi
mkdir -p logs
declare -A ids

submit() { # NAME SCRIPT OPTIONS-OF-SBATCH -- NAMES-THAT-IT-WAITS-FOR -- ARGUMENTS
    local name=$1 script=$2 options=() after= id # before bash 4.4 no items were an unset variable
    shift 2
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    while [ "$1" != -- ]; do after+=":${ids[$1]}" && shift; done
    shift
    if ! id=$(sbatch --parsable --kill-on-invalid-dep=yes --job-name="${name//[\/:]/.}" \
        ${options[@]+"${options[@]}"} ${after:+--dependency=afterok$after} "sbatch/$script.sh" "$@"); then
        if [ ${#all[@]} -gt 0 ]; then scancel "${all[@]}"; fi
        echo "$name: not submitted, for the reason above; what was submitted before it is cancelled" >&2
        exit 1
    fi
    ids[$name]=${id%%;*} # a cluster's name may stand behind it
    all+=("${ids[$name]}")
    echo "${ids[$name]}  $name${after:+  after${after//:/ }}"
}

all=()
while read -r name script kind after; do
    options=(${DRAW:-})
    if [ "$kind" = array ]; then options=(--array="1-${TASKS:-4}" --output=logs/%x-%A-%a.out ${DRAW:-}); fi
    if [ "$script" = fit ]; then options=(${FIT:-}); fi
    submit "$name" "$script" ${options[@]+"${options[@]}"} -- $after -- "${chain[@]}" --only "$name"
done <<< "$jobs"
submit "$verb.tables" evaluate ${DRAW:-} -- "${names[@]}" -- "${chain[@]}"

watched="${all[*]}"
echo "watch:  squeue --jobs=${watched// /,}; logs/NAME-JOB.out, of arrays logs/NAME-JOB-TASK.out"
echo "cancel: scancel $watched"
echo "resume: the same command; what is done is skipped, the store keeps samples, fits go on from their checkpoint"
