"""Every error that Everbert raises on purpose, and the exit code of each.

EverbertError            1  something failed that the user did not cause
├── InputError           2  bad usage or bad input: one line says what, where, and what to do
│   ├── DataError           a data source, a data set folder, a row
│   ├── ModelFolderError    a folder that is not a model, or was changed after it was written
│   ├── SettingsError       a setting that does not exist or is out of range
│   ├── StorageError        the object store: not there, credentials refused, no such bucket
│   ├── TrackingError       the MLflow server: not there, no such model
│   ├── ClusterError        the KFP API server: credentials refused, a request it does not take
│   │   └── ClusterUnavailableError   it is not there, or not well, for now
│   └── ResourceError       the machine: a port that is taken, a disk that is full
├── ConflictError        1  somebody else wrote the same object first
│   ├── BusyError           another run of the same model is under way
│   └── OvertakenError      another model's predictions of an object came in between, and stay for now
├── StepError            1  a pipeline step failed; says which, and where its log is
└── DeploymentError      1  the new version was not served; the old one still is
"""


class EverbertError(Exception):
    """Base class. `str(error)` is one line for a person; `exit_code` is the command's exit code."""

    exit_code = 1


class InputError(EverbertError):
    exit_code = 2


class DataError(InputError):
    pass


class ModelFolderError(InputError):
    pass


class SettingsError(InputError):
    pass


class StorageError(InputError):
    pass


class TrackingError(InputError):
    pass


class ClusterError(InputError):
    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status  # of HTTP, if that is where it comes from


class ClusterUnavailableError(ClusterError):
    pass


class ResourceError(InputError):
    pass


class ConflictError(EverbertError):
    pass


class BusyError(ConflictError):
    pass


class OvertakenError(ConflictError):
    pass


class StepError(EverbertError):
    pass


class DeploymentError(EverbertError):
    pass
