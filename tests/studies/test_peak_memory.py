import pytest

from una_ref.studies.online_measures import online_job
from una_ref.studies.online_runs import CostRun
from una_ref.studies.online_tables import PHASES
from una_ref.studies.peak_memory import PeakMeter
from una_ref.studies.proxies import TRUTH


def test_a_phase_inside_another_has_a_peak_of_its_own():
    meter = PeakMeter()
    with meter.phase("learning"):
        few = bytearray(8 << 20)
        with meter.phase("generation"):
            many = bytearray(96 << 20)
            del many
        assert len(few) == 8 << 20
    if meter.peaks["learning"] is None:
        pytest.skip("this system does not report a phase's peak")
    assert meter.peaks["generation"] > 100 > 48 > meter.peaks["learning"] > 7


def test_a_job_is_measured_by_its_phases(tiny_online, toysteer_base):
    job, meter = online_job(CostRun("rloo", TRUTH, 1e-3, 0), tiny_online, toysteer_base), PeakMeter()
    meter.attach(job)
    with meter.phase("learning"):
        job.step(0, record=False)
    assert set(meter.peaks) == set(job.seconds) == set(PHASES)
