# Sourced by the scripts of the stages: run the job's one step, and say what becomes of the job if it does not succeed.

if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi # srun takes no other word

# Ended by SIGUSR1 (138), which comes before the time limit, a job goes back into the queue and on from what it has
# stored. So it does three times when another signal ended it, as for want of memory. SIGTERM (143) is left to Slurm,
# which puts a preempted job back by itself and a cancelled one not.
run() {
    srun --kill-on-bad-exit=1 "$@" && exit 0
    local status=$?
    if [ $status -eq 143 ]; then
        echo "$SLURM_JOB_NAME: told to end: cancelled, or preempted and back in the queue" >&2
    elif [ $status -eq 138 ] || { [ $status -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; }; then
        echo "$SLURM_JOB_NAME: ended by signal $((status - 128)); back into the queue" >&2
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "$SLURM_JOB_NAME: failed with exit code $status, so that the jobs that wait for it are cancelled." \
            "Mend what is said above and submit the chain again: what is done or stored is not done again." >&2
    fi
    exit $status
}
