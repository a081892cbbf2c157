# Sourced by the scripts of the stages: run the job's one step, and say what becomes of the job if it does not succeed.

if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # srun takes no other word
export SLURM_EXPORT_ENV=ALL # else a step of a job that was submitted with --export=NONE has not even the job's PATH

preempted() { # JOB: whether Slurm has taken its place since it started; what it says may be of an earlier start
    local facts start
    facts=$(scontrol show job "$1")
    start=${facts#*[[:space:]]StartTime=} start=${start%%[[:space:]]*}
    [[ $facts =~ [[:space:]]PreemptTime=([0-9][^[:space:]]*) && ! ${BASH_REMATCH[1]} < $start ]]
}

# Before its time limit a job gets SIGUSR1. It hands it on to its processes, which store what they have and end, goes back
# into the queue, and on from there; so it does when it is preempted and has time to end by itself (GraceTime). Another
# signal that ended its one process, as for want of memory, puts it back up to three times, and so does an error behind
# SIGUSR1, as of a full disk, or the engine of one process that died again and again (exit code 75), which another node might
# not see. A job that Slurm ends is Slurm's: preempted it is put back, cancelled it is not.
run() {
    local told='' status state before end job=$SLURM_JOB_ID log=/proc/$$/fd/2
    # One task of an array has the array's own number, by which all its tasks would be meant.
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    trap 'told=1; scancel --signal=USR1 "$job"' USR1
    srun --kill-on-bad-exit=1 "$@" &
    while wait $!; status=$?; kill -0 $! 2> /dev/null; do :; done # wait returns for the trap, too
    if [ -n "$told" ]; then wait $!; status=$?; fi # its own code, if it ended during the trap
    if [ $status -eq 0 ]; then exit 0; fi
    # If the controller is away for a moment, the job runs as far as anybody knows.
    state=$(squeue --noheader --jobs="$job" --format=%T) || state=RUNNING
    before=${SLURM_RESTART_COUNT:-0}
    if [ -f "$log" ]; then before=$(grep -c ' ended .*; back into the queue' "$log"); fi # restarts of other causes are free
    end="with exit code $status"
    if [ -n "$told" ]; then end+=" at its time limit"; fi
    if [ $status -gt 128 ]; then end="by signal $((status - 128))"; fi
    if [ "$state" != RUNNING ]; then
        echo "$SLURM_JOB_NAME: ended by Slurm: preempted, to be run again, or cancelled" >&2
    elif [ -n "$told" ] && [ $status -gt 128 ]; then
        echo "$SLURM_JOB_NAME: its time is over; back into the queue" >&2
        scontrol requeue "$job"
    elif [ $status -gt 128 ] && preempted "$job"; then
        echo "$SLURM_JOB_NAME: preempted; back into the queue" >&2
        scontrol requeue "$job"
    elif { [ -n "$told" ] || [ $status -eq 75 ] || { [ $status -gt 128 ] && [ "$SLURM_NTASKS" -eq 1 ]; }; } && [ "$before" -lt 3 ]; then
        echo "$SLURM_JOB_NAME: ended $end; back into the queue" >&2
        scontrol requeue "$job"
    else
        echo "$SLURM_JOB_NAME: failed with exit code $status, so that the jobs that wait for it are cancelled." \
            "Mend what is said above and submit the chain again: what is done or stored is not done again." >&2
    fi
    exit $status
}
