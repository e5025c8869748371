"""Room that processes of this sweep still hold after their death."""

from typing import Any

import ray
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group


def free_left_room() -> None:
    """Give back the room of worker groups whose controller is dead.

    Ray itself keeps it until the whole job ends.
    """
    job = ray.get_runtime_context().get_job_id()
    messages: Any = gcs_pb2
    accessor: Any = ray._private.state.state._connect_and_get_accessor()
    for text in accessor.get_placement_group_table():
        group = messages.PlacementGroupTableData.FromString(text)
        by_actor = group.creator_job_id.hex() == job and not ray.ActorID(group.creator_actor_id).is_nil()
        if by_actor and group.creator_actor_dead and group.state != messages.PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
