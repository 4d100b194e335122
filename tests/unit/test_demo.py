"""Tests of the demo that need no cluster."""

import unittest
import unittest.mock

from cnclip_build.progress import Failure
from demo import clusters, monitor, s3, summary
from demo.runs import Run

RECALLS = {"textToImage": {"r1": "14.0", "r5": "35.7", "r10": "47.0", "meanRecall": "32.2"},
           "imageToText": {"r1": "13.2", "r5": "34.3", "r10": "46.6", "meanRecall": "31.4"}}


def training(name, seconds, **stage):
    return Run({"kind": "CnClipTraining", "metadata": {"name": name}, "status": {
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": f"2026-01-01T00:00:{seconds:02}Z",
        "stages": [{"name": "only", "state": "Succeeded", "samplesSeen": 0, **stage}]}})


def evaluation(**status):
    return Run({"kind": "CnClipEvaluation", "metadata": {"name": "e"}, "status": status})


class Summaries(unittest.TestCase):
    def test_samples_and_seconds_are_sums_over_trainings_and_memory_is_the_maximum(self):
        runs = [training("a", 10, samplesSeen=1000, peakRssBytes=5), training("b", 30, samplesSeen=3000),
                evaluation(results=[{"name": "t", "retrieval": {"recalls": RECALLS}}], peakRssBytes=7)]
        result = summary.summarize(runs, {"setup": 1.0, "total": 50.0}, 3, "report.html")
        self.assertEqual(result["pairs_seen"], 4000)
        self.assertEqual(result["pairs_per_second"], 100.0)
        self.assertEqual(result["seconds"], {"setup": 1.0, "train": 40.0, "total": 50.0})
        self.assertEqual(result["peak_rss_bytes"], {"operator": 3, "trainer": 7})
        self.assertEqual(result["recall"]["text_to_image"], {"r1": 14.0, "r5": 35.7, "r10": 47.0, "mean_recall": 32.2})
        self.assertIn("image to text        13.2    34.3    46.6    31.4", summary.format_table(result))

    def test_an_evaluation_without_results_is_a_failure(self):
        with self.assertRaisesRegex(Failure, "no results"):
            summary.recalls(evaluation())


class Monitor(unittest.TestCase):
    def test_a_progress_bar_shows_the_completed_share_and_the_last_report(self):
        stage = {"name": "align", "step": 50, "steps": 200, "loss": "3.21", "samplesPerSecond": "490", "etaSeconds": 75}
        line = monitor.progress_bar(training("chinese", 1), stage)
        self.assertEqual(line.count("█"), monitor.BAR_WIDTH // 4)
        self.assertTrue(line.endswith("50/200  loss 3.21  490 pairs/s  1:15 left"), line)

    def test_the_bar_of_a_stage_without_a_report_is_empty(self):
        line = monitor.progress_bar(training("chinese", 1), {"name": "align"})
        self.assertNotIn("█", line)
        self.assertTrue(line.endswith("0/?"), line)

    def test_the_message_of_a_failed_run_is_the_operators(self):
        run = Run({"kind": "CnClipTraining", "metadata": {"name": "a"}, "status": {
            "conditions": [{"type": "Failed", "status": "True", "reason": "DataUnusable", "message": "stage x failed"}],
            "lastFailure": {"message": "the shard is torn"}}})
        self.assertEqual(monitor.failure_message(run), "CnClipTraining a: DataUnusable: the shard is torn")


class Clusters(unittest.TestCase):
    def test_everything_that_the_current_cluster_lacks_is_listed_at_once(self):
        with unittest.mock.patch.dict("os.environ", {"CLUSTER": "current", "S3_BUCKET": "b", "PATH": ""}, clear=True), \
                self.assertRaises(Failure) as failure:
            clusters.selected().prepare()
        for name in ("IMAGE_REGISTRY", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "kubectl", "helm"):
            self.assertIn(name, str(failure.exception))
        self.assertNotIn("S3_BUCKET", str(failure.exception))


class Signatures(unittest.TestCase):
    def test_the_signature_is_that_of_the_documentations_example(self):
        """AWS, "Signature Calculations for the Authorization Header", example GET Object."""
        keys = {"accessKeyId": "AKIAIOSFODNN7EXAMPLE", "region": "us-east-1",
                "secretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
        headers = {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9",
                   "x-amz-content-sha256": s3.EMPTY_SHA256, "x-amz-date": "20130524T000000Z"}
        header = s3.authorization(keys, "/test.txt", headers, "20130524T000000Z")
        self.assertTrue(header.endswith(
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"), header)


if __name__ == "__main__":
    unittest.main()
