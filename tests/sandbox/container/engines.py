"""Container engines of our own, apart from the machine's: a podman, and a docker with its daemon."""

import contextlib
import os
import shutil
import subprocess
import time

from tests.sandbox.container import images

CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
tmp_dir = "{0}/tmp"
volume_path = "{0}/volumes"
"""
STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{0}/graph"
runroot = "{0}/run"
"""
DAEMON = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--default-ulimit=nofile=1024:1024")


class CannotRun(Exception):
    """This machine does not let the engine run."""


class Engine:
    """What podman and docker do alike. `environment` points their command lines to this engine."""

    name: str
    programs: tuple[str, ...]
    at_once: tuple[str, ...] = ()
    changes: tuple[str, ...] = ("ENV FROM_IMAGE=yes", "ENV HOME=/nowhere", "ENTRYPOINT /bin/false")

    def __init__(self, directory):
        for program in self.programs:
            if shutil.which(program) is None:
                raise CannotRun(f"{program} is not installed (apt-get install podman runc docker.io)")
        self.directory = directory
        self.environment = self.start()

    def start(self) -> dict[str, str]:
        raise NotImplementedError

    def ask(self, *arguments, check=True):
        done = subprocess.run(
            [self.name, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=os.environ | self.environment,
        )
        assert not check or done.returncode == 0, f"{self.name} {' '.join(arguments)}: {done.stderr}"
        return done

    def build(self, name, programs, *, changes=(), **options):
        tar = images.pack(self.directory / "image.tar", programs, **options)
        self.ask("import", *(f"--change={change}" for change in changes), str(tar), name)
        tar.unlink()

    def containers(self):
        return self.ask("ps", "--all", "--quiet", "--no-trunc").stdout.split()

    def remove(self, *names):
        if names:
            self.ask("rm", "--force", *self.at_once, *names)

    def close(self):
        with contextlib.suppress(AssertionError):
            self.remove(*self.containers())


class Podman(Engine):
    name = "podman"
    programs = ("podman", "runc")
    at_once = ("--time=0",)
    changes = (*Engine.changes, "VOLUME /data")

    def start(self):
        for name, text in {"containers.conf": CONTAINERS_CONF, "storage.conf": STORAGE_CONF}.items():
            (self.directory / name).write_text(text.format(self.directory))
        return {
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
        }

    def close(self):
        super().close()
        self.ask("system", "reset", "--force", check=False)


class Docker(Engine):
    name = "docker"
    programs = ("docker", "dockerd", "runc")

    def start(self):
        place = self.directory
        own = (f"--data-root={place}/data", f"--exec-root={place}/exec", f"--pidfile={place}/pid")
        with (place / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                ["dockerd", f"--host=unix://{place}/socket", *own, *DAEMON], stdout=log, stderr=log
            )
        self.environment = {"DOCKER_HOST": f"unix://{place}/socket"}
        for _ in range(300):
            if self.ask("version", check=False).returncode == 0:
                return self.environment
            if self._daemon.poll() is not None:
                break
            time.sleep(0.1)
        self.stop()
        raise CannotRun(f"dockerd does not serve here: {(place / 'log').read_text()[-2000:]}")

    def stop(self):
        self._daemon.terminate()
        try:
            self._daemon.wait(30)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()

    def close(self):
        super().close()
        self.stop()


ENGINES = {engine.name: engine for engine in (Podman, Docker)}
