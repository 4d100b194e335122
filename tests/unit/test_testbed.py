"""Tests of the testbed that need no running testbed."""

import os
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
from dataclasses import dataclass
from pathlib import Path

from cnclip_build.commands import run
from cnclip_build.progress import Failure
from testbed import cluster, discovery, processes, tools
from testbed.config import NETWORKS, Testbed


@dataclass
class Folder:
    """The part of a testbed that `processes` uses."""

    root: Path

    def folder(self, name):
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path


class Processes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.testbed = Folder(Path(folder.name))

    def test_a_process_is_started_once_and_stopped(self):
        processes.start(self.testbed, "sleeper", "sleep", "60")
        pid = processes.running(self.testbed, "sleeper")
        processes.start(self.testbed, "sleeper", "sleep", "60")
        self.assertEqual(processes.running(self.testbed, "sleeper"), pid)
        processes.stop(self.testbed, "sleeper")
        self.assertIsNone(processes.start_time(pid))

    def test_another_process_with_a_reused_pid_is_not_stopped(self):
        with subprocess.Popen(["sleep", "60"]) as other:
            (self.testbed.folder("pids") / "sleeper").write_text(f"{other.pid} 1")
            processes.stop(self.testbed, "sleeper")
            self.assertIsNone(other.poll())
            other.kill()

    def test_the_log_of_a_process_that_exits_is_part_of_the_failure(self):
        processes.start(self.testbed, "failing", "sh", "-c", "echo no such thing; exit 1")
        with self.assertRaisesRegex(Failure, "failing exited(.|\n)*no such thing"):
            processes.wait_until_ready(self.testbed, "failing", lambda: False)


class Configuration(unittest.TestCase):
    def test_testbeds_share_no_address_folder_or_name(self):
        testbeds = [Testbed(network) for network in NETWORKS]
        for name in ("root", "node", "bridge", "address", "hardware_address", "loopback", "services", "api_address"):
            self.assertEqual(len({getattr(testbed, name) for testbed in testbeds}), len(testbeds), name)
        self.assertFalse({testbed.subnet for testbed in testbeds} & {testbed.services for testbed in testbeds})

    def test_the_network_is_selected_by_the_environment_also_under_its_former_name(self):
        for variables, network in (({}, 88), ({"TESTBED_NETWORK": "90"}, 90), ({"BED_NET": "91"}, 91),
                                   ({"TESTBED_NETWORK": "90", "BED_NET": "91"}, 90)):
            with unittest.mock.patch.dict("os.environ", variables, clear=True):
                self.assertEqual(Testbed.from_environment().network, network)
        with unittest.mock.patch.dict("os.environ", {"TESTBED_NETWORK": "10"}), \
                self.assertRaisesRegex(Failure, "must be 88 to 95, found '10'"):
            Testbed.from_environment()


@unittest.skipUnless(os.geteuid() == 0, "network namespaces need root")
class Bridge(unittest.TestCase):
    def test_the_bridge_keeps_its_mac_address_when_a_pod_with_a_lower_one_is_added(self):
        testbed = Testbed(95)
        pod = "ip link add pod address 00:00:00:00:00:02 type veth peer name inside"
        script = ("from cnclip_build.commands import run; from testbed import node; from testbed.config import Testbed; "
                  f"node.create_bridge(Testbed({testbed.network})); run(*'{pod}'.split()); "
                  f"run('ip', 'link', 'set', 'pod', 'master', '{testbed.bridge}'); "
                  f"print(run('ip', '-brief', 'link', 'show', '{testbed.bridge}'))")
        # In a network namespace of its own, so that the machine's interfaces are not touched.
        shown = run("unshare", "--net", sys.executable, "-c", script)
        self.assertIn(testbed.hardware_address, shown)


class Tools(unittest.TestCase):
    def test_another_command_or_linker_flag_gives_another_folder(self):
        recipe = tools.Recipe("x", ("x",), ("install", "x@v1"))
        others = (tools.Recipe("x", ("x",), ("install", "x@v2")), tools.Recipe("x", ("x",), recipe.command, "-s"))
        for other in others:
            self.assertNotEqual(other.folder, recipe.folder)


class Discovery(unittest.TestCase):
    def test_only_annotated_pods_with_an_address_are_targets(self):
        def pod(name, annotations, **status):
            return {"metadata": {"name": name, "namespace": "n", "annotations": annotations}, "status": status}

        annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
        pods = [pod("annotated", annotations, podIP="10.0.0.1"), pod("without-address", annotations),
                pod("not-annotated", {}, podIP="10.0.0.2")]
        [target] = discovery.scrape_targets(pods)
        self.assertEqual(target["targets"], ["10.0.0.1:8080"])
        self.assertEqual(target["labels"], {"__metrics_path__": "/metrics", "namespace": "n", "pod": "annotated"})


class Locking(unittest.TestCase):
    def test_a_second_program_is_refused_while_the_first_uses_the_testbed(self):
        with tempfile.TemporaryDirectory() as cache, unittest.mock.patch.object(cluster, "CACHE", Path(cache)):
            with cluster.exclusive(Testbed(95)):
                with self.assertRaisesRegex(Failure, "TESTBED_NETWORK"), cluster.exclusive(Testbed(95)):
                    self.fail("both have the lock")
                with cluster.exclusive(Testbed(94)):
                    pass
            with cluster.exclusive(Testbed(95)):
                pass


if __name__ == "__main__":
    unittest.main()
