"""Bad command lines and files: three lines and a fixed exit code; of a crash, that it is ours."""


def test_a_crash_is_said_to_be_ours_and_has_a_code_of_its_own(invoke, monkeypatch):
    from experiments import samples

    def crash() -> None:
        raise KeyError("planted")

    monkeypatch.setattr(samples, "contact_sheet", crash)
    done = invoke("experiments.samples")
    assert done.returncode == 70
    assert done.stderr.startswith("Traceback")
    assert "KeyError: 'planted'" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("this is a defect of skipzoo: please report")
