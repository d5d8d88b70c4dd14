package config

import "github.com/srpo-dev/srpo/host/srpo"

// RewardOptions returns the settings of [reward] for embeddings of dim numbers. With dim 0 the most frequent size
// counts.
func (c *Config) RewardOptions(dim int) srpo.RewardOptions {
	o := srpo.DefaultRewardOptions()
	o.Kind, o.References = srpo.RewardKind(c.Reward.Kind), srpo.ReferenceKind(c.Reward.References)
	o.Cluster.Kind, o.Alpha, o.Dim = srpo.ClusterKind(c.Reward.Cluster), c.Reward.Alpha, dim
	return o
}

// KeepsClip reports whether run.keep_clips keeps the frames of an episode with this outcome.
func (r Run) KeepsClip(success bool) bool {
	return r.KeepClips == "all" || r.KeepClips == "failures" && !success
}

// KeepsTrajectory reports whether run.keep_trajectories keeps an episode with this outcome.
func (r Run) KeepsTrajectory(success bool) bool {
	return r.KeepTrajectories == "all" || r.KeepTrajectories == "successes" && success
}
