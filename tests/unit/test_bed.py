"""The parts of the bed that decide something, without a bed."""

import io
import subprocess
import sys
import tarfile
import tempfile
import unittest
import unittest.mock
from dataclasses import dataclass
from pathlib import Path

from bed import cluster, processes, targets, tools
from bed.oci import Image
from bed.place import Bed
from bed.steps import Failure


@dataclass
class Folder:
    """As much of a bed as processes need."""

    root: Path

    def folder(self, name):
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


class Images(unittest.TestCase):
    def test_the_same_files_make_the_same_image_in_any_order(self):
        one = Image(["/a"]).file("/b/c", b"1").file("/a", b"2", 0o755)
        other = Image(["/a"]).file("/a", b"2", 0o755).file("/b/c", b"1")
        self.assertEqual(one.digest(), other.digest())

    def test_content_mode_user_and_path_each_make_another_image(self):
        same = Image(["/a"]).file("/a", b"1").digest()
        for other in (Image(["/a"]).file("/a", b"2"), Image(["/a"]).file("/a", b"1", 0o755),
                      Image(["/a"], user="1:1").file("/a", b"1"), Image(["/a"]).file("/b", b"1")):
            self.assertNotEqual(other.digest(), same)

    def test_a_layer_holds_each_folder_before_its_files_and_all_are_roots(self):
        with tempfile.TemporaryDirectory() as folder:
            tar = Path(folder) / "image.tar"
            Image(["/x/y/z"]).file("/x/y/z", b"1").file("/x/a", b"2").write(tar, "name:tag")
            with tarfile.open(tar) as image:
                largest = max(image.getmembers(), key=lambda member: member.size)
                layer = image.extractfile(largest).read()
        with tarfile.open(fileobj=io.BytesIO(layer)) as files:
            self.assertEqual(files.getnames(), ["x", "x/a", "x/y", "x/y/z"])
            self.assertEqual({(member.uid, member.gid, member.mtime) for member in files}, {(0, 0, 0)})


class Processes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.bed = Folder(Path(folder.name))

    def test_a_process_is_started_once_and_ended(self):
        processes.start(self.bed, "sleeper", "sleep", "60")
        pid = processes.alive(self.bed, "sleeper")
        processes.start(self.bed, "sleeper", "sleep", "60")
        self.assertEqual(processes.alive(self.bed, "sleeper"), pid)
        processes.end(self.bed, "sleeper")
        self.assertIsNone(processes.started_at(pid))

    def test_a_process_that_took_over_the_number_is_left_alone(self):
        with subprocess.Popen(["sleep", "60"]) as stranger:
            (self.bed.folder("pids") / "sleeper").write_text(f"{stranger.pid} 1")
            processes.end(self.bed, "sleeper")
            self.assertIsNone(stranger.poll())
            stranger.kill()

    def test_a_process_that_dies_is_told_with_its_last_words(self):
        processes.start(self.bed, "liar", "sh", "-c", "echo no such thing; exit 1")
        with self.assertRaisesRegex(processes.Failure, "liar died(.|\n)*no such thing"):
            processes.wait_ready(self.bed, "liar", lambda: False)


class Addresses(unittest.TestCase):
    def test_beds_side_by_side_share_nothing(self):
        beds = [Bed(net) for net in range(88, 96)]
        for what in ("root", "node", "bridge", "address", "hardware_address", "loopback", "services", "api_address"):
            self.assertEqual(len({getattr(bed, what) for bed in beds}), len(beds), what)
        self.assertFalse({bed.subnet for bed in beds} & {bed.services for bed in beds})


class Bridge(unittest.TestCase):
    def test_the_machine_keeps_its_hardware_address_as_pods_come_and_go(self):
        bed = Bed(95)
        pod = "ip link add pod address 00:00:00:00:00:02 type veth peer name inside"
        script = ("from bed import node; from bed.place import Bed; from bed.processes import run; "
                  f"node.make_bridge(Bed({bed.net})); run(*'{pod}'.split()); "
                  f"run('ip', 'link', 'set', 'pod', 'master', '{bed.bridge}'); "
                  f"print(run('ip', '-brief', 'link', 'show', '{bed.bridge}'))")
        told = processes.run("unshare", "--net", sys.executable, "-c", script)
        self.assertIn(bed.hardware_address, told)


class Builds(unittest.TestCase):
    def test_another_command_or_linker_flag_is_another_build(self):
        recipe = tools.Recipe("x", ("x",), ("install", "x@v1"))
        others = (tools.Recipe("x", ("x",), ("install", "x@v2")), tools.Recipe("x", ("x",), recipe.command, "-s"))
        for other in others:
            self.assertNotEqual(other.folder, recipe.folder)


class Targets(unittest.TestCase):
    def test_only_pods_that_ask_for_it_and_have_an_address_are_read(self):
        def pod(name, annotations, **status):
            return {"metadata": {"name": name, "namespace": "n", "annotations": annotations}, "status": status}

        wish = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
        pods = [pod("asks", wish, podIP="10.0.0.1"), pod("has-no-address", wish),
                pod("does-not-ask", {}, podIP="10.0.0.2")]
        [target] = targets.targets(pods)
        self.assertEqual(target["targets"], ["10.0.0.1:8080"])
        self.assertEqual(target["labels"], {"__metrics_path__": "/metrics", "namespace": "n", "pod": "asks"})


class Alone(unittest.TestCase):
    def test_a_second_program_is_refused_while_the_first_is_at_work(self):
        with tempfile.TemporaryDirectory() as cache, unittest.mock.patch.object(cluster, "CACHE", Path(cache)):
            with cluster.alone(Bed(95)):
                with self.assertRaisesRegex(Failure, "BED_NET"), cluster.alone(Bed(95)):
                    self.fail("both were let in")
                with cluster.alone(Bed(94)):
                    pass
            with cluster.alone(Bed(95)):
                pass
