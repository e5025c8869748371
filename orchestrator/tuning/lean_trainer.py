"""Ray Train's trainer without the actors that a slot has no use for."""

from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


class LeanTrainer(DataParallelTrainer):
    """One process less for datasets of Ray Data, of which there are none, and one less for the room of a dead group.

    The latter asks the dashboard every second, which not every cluster has; where that does not answer it outlives its
    group, with a share of the head that the next group waits for. left_room.py does its work.

    The workers join torch's process group themselves: a TorchTrainer imports torch in two more processes of each slot,
    on the head, where nothing else needs it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()
        return [one for one in made if not isinstance(one, DatasetsCallback | PlacementGroupCleanerCallback)]
