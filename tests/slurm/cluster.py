"""A real Slurm of two nodes on this machine: its own folders, ports, keys and daemons, ended with the tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PORTS = (17817, 17818, 17819)  # of the controller and of the nodes
NODES = ("node1", "node2")  # names that Lightning asks the resolver for
CONF = """
ClusterName=stepneg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=86400
SlurmdParameters=config_overrides
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
NodeName=node1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=4096
NodeName=node2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=4096
PartitionName=usual Nodes=node1,node2 Default=YES PriorityTier=1 State=UP
PartitionName=urgent Nodes=node1,node2 PriorityTier=2 State=UP
"""


class Unavailable(Exception):
    """Why there can be no Slurm here."""


@dataclass
class Cluster:
    """A running Slurm.

    Attributes:
        home: folder of its files.
        daemons: its processes.
    """

    home: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Of its commands."""
        return os.environ | {"SLURM_CONF": str(self.home / "slurm.conf")}

    def run(self, *command: str) -> str:
        """What one of its commands says."""
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, or of the first task of an array."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job).split("\n\n")[0]))

    def states(self, *jobs: str) -> set[str]:
        """The states of jobs and of all tasks of arrays."""
        return {
            state for job in jobs for state in re.findall(r"JobState=(\w+)", self.run("scontrol", "show", "job", job))
        }

    def hurry(self, job: str) -> None:
        """Let a job that is back in the queue start before Slurm would, which waits until its credential has expired.

        Not within a second or two: a node refuses what starts in the second in which it revoked the last run.
        """
        back = datetime.fromisoformat(self.facts(job)["SubmitTime"]).timestamp()
        if self.facts(job)["JobState"] == "PENDING" and time.time() > back + 3:
            command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
            subprocess.run(
                command, env=self.environment, check=False, capture_output=True
            )  # it may have started by now

    def wait(self, jobs: list[str], seconds: float) -> None:
        """Until no job is waiting or running; a requeued one need not wait until its credential has expired."""
        end = time.monotonic() + seconds
        while self.run("squeue", "--noheader", "--format=%A", f"--jobs={','.join(jobs)}").strip():
            assert time.monotonic() < end, self.run("squeue", "--format=%i %j %T %r %S")
            time.sleep(0.5)

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=self.environment, check=False)
        time.sleep(2)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.home, ignore_errors=True)


def install() -> None:
    """Slurm by apt, if it is absent.

    Raises:
        Unavailable: it is, and cannot be installed.
    """
    if os.geteuid() != 0:
        raise Unavailable("a Slurm is started by root only")
    if all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable("no Slurm is installed, and there is no apt-get to install it")
    quiet = {"env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
    subprocess.run(["apt-get", "update"], check=False, **quiet)  # type: ignore[call-overload]
    done = subprocess.run(["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES], **quiet)  # type: ignore[call-overload]
    if done.returncode:
        raise Unavailable(f"apt-get could not install Slurm: {done.stderr.decode().strip()[-300:]}")


def start(home: Path) -> Cluster:
    """Start munge, the controller and two nodes in a folder that all may enter.

    Raises:
        Unavailable: they do not come up.
    """
    install()
    names = Path("/etc/hosts").read_text().split()
    if missing := [node for node in NODES if node not in names]:
        with Path("/etc/hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 {' '.join(missing)}\n")
    home.chmod(0o755)
    (home / "state").mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (home / "slurm.conf").write_text(CONF.format(host=socket.gethostname().split(".")[0], home=home, ports=PORTS))
    cluster = Cluster(home)
    files = [f"--{what}={home}/munge.{what.split('-')[0]}" for what in ("socket", "key-file", "pid-file", "log-file")]
    commands = [["munged", "--foreground", *files, f"--seed-file={home}/munge.seed"], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", node] for node in NODES]
    for command in commands:
        with (home / f"{command[0]}-{command[-1]}.out".replace("/", "_")).open("wb") as out:
            cluster.daemons.append(
                subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=out, start_new_session=True)
            )
        time.sleep(0.5)
    for _ in range(60):
        up = subprocess.run(
            ["sinfo", "--noheader", "--partition=usual", "--format=%D %t"],
            env=cluster.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if up.stdout.split() == ["2", "idle"]:
            return cluster
        time.sleep(0.5)
    said = "; ".join(f"{log.name}: {log.read_text()[-300:].strip()}" for log in sorted(home.glob("*.out")))
    cluster.stop()
    raise Unavailable(f"Slurm did not come up: {up.stderr.strip()} {said}")
