from thumbnails import BROKEN, LATER, thumbnail
from twisted.trial.unittest import SynchronousTestCase
from txgearman.testing import JobServerMixin


class ThumbnailTests(JobServerMixin, SynchronousTestCase):
    def setUp(self) -> None:
        self.outcome = thumbnail(self.job_server.clock, self.job_server.client(), b"large")

    def test_success(self) -> None:
        self.job_server.take("thumbnail").complete(b"small")
        self.assertEqual(self.successResultOf(self.outcome), b"small")

    def test_failure(self) -> None:
        self.job_server.take("thumbnail").fail()
        self.assertEqual(self.successResultOf(self.outcome), BROKEN)

    def test_lost_connection(self) -> None:
        self.job_server.drop_connections()
        self.assertEqual(self.successResultOf(self.outcome), LATER)

    def test_time_out(self) -> None:
        self.job_server.advance(10)
        self.assertEqual(self.successResultOf(self.outcome), LATER)
