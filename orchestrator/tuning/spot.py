"""Ray's node providers for AWS, Google Cloud and Azure, with an on-demand node where a spot node is refused.

Ray's autoscaler asks for the node type with the higher priority, and when a cloud has none it asks again, for ever:
only a node that was given and then never joined makes it try another type. So the second choice is made here, where
the launch fails. Cluster files name these classes, `provider: {type: external, module: orchestrator.tuning.spot.Aws}`.
"""

import copy
import logging
import re
from typing import Any

_CLOUDS = {"Aws": "aws", "Gcp": "gcp", "Azure": "azure"}
# What the clouds call it when they have no such node, or give this account none. After any other error, such as a poll
# that failed, the node may be there: a second one would cost the full price.
_REFUSAL = re.compile(
    r"\b("
    r"InsufficientInstanceCapacity|MaxSpotInstanceCountExceeded|SpotMaxPriceTooLow|"  # AWS
    r"ZONE_RESOURCE_POOL_EXHAUSTED(_WITH_DETAILS)?|QUOTA_EXCEEDED|quotaExceeded|"  # Google Cloud
    r"SkuNotAvailable|(Zonal)?AllocationFailed|Overconstrained(Zonal)?AllocationRequest|QuotaExceeded|"  # Azure
    r"exceeding approved [\w ]+ quota"
    r")\b"
)
_log = logging.getLogger(__name__)


def on_demand(node_config: dict[str, Any]) -> dict[str, Any] | None:
    """The same node at the full price, which is not taken away; none where `node_config` is no spot node."""
    plain = copy.deepcopy(node_config)
    found = plain.pop("InstanceMarketOptions", {}).get("MarketType") == "spot"  # AWS
    if plain.get("scheduling", {}).get("provisioningModel") == "SPOT":  # Google Cloud
        del plain["scheduling"]["provisioningModel"]
        plain["scheduling"].pop("instanceTerminationAction", None)
        found = True
    azure = plain.get("azure_arm_parameters", {})
    if azure.get("priority") == "Spot":
        for key in ("priority", "evictionPolicy", "billingProfile"):
            azure.pop(key, None)
        found = True
    return plain if found else None


class OnDemandInstead:
    """What is added to a node provider of Ray."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Create nodes, one by one so that a refusal concerns one; returns what the cloud said of each."""
        created: dict[str, Any] = {}
        for _ in range(count):
            created |= self._create_one(node_config, tags)
        return created

    def _create_one(self, node_config: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
        create: Any = super().create_node  # type: ignore[misc]  # of the provider that this class is mixed into
        instead = on_demand(node_config)
        try:
            return create(copy.deepcopy(node_config), tags, 1) or {}
        except Exception as refusal:  # each cloud has its own, and Azure and Google Cloud no common one
            if instead is None or not _REFUSAL.search(str(refusal)):
                raise
            _log.warning("No spot node (%s); taking an on-demand node instead.", refusal)
            return create(instead, tags, 1) or {}


def with_on_demand(provider: type) -> type:
    """A node provider that takes on-demand nodes where it gets no spot nodes."""
    return type(f"{provider.__name__}OnDemandInstead", (OnDemandInstead, provider), {})


def __getattr__(name: str) -> type:
    """Made when asked for: the library of one cloud is enough."""
    if name not in _CLOUDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray.autoscaler._private.providers import _get_node_provider_cls  # noqa: PLC0415

    provider: type = _get_node_provider_cls({"type": _CLOUDS[name]})
    globals()[name] = with_on_demand(provider)
    return globals()[name]  # type: ignore[no-any-return]
