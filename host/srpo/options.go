package srpo

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// RewardKind names the map from a failure's distance to its reward.
type RewardKind string

// The kinds of reward; each is described at its function in reward.go.
const (
	ZScore   RewardKind = "zscore"
	MinMax   RewardKind = "minmax"
	Anchored RewardKind = "anchored"
	Binary   RewardKind = "binary"
	Progress RewardKind = "progress"
)

// Embeds reports whether the kind reads embeddings. Binary and progress do not.
func (k RewardKind) Embeds() bool { return k != Binary && k != Progress }

// ClusterKind names how the references become centres.
type ClusterKind string

// The kinds of clustering; each is described at Cluster.
const (
	ClusterAuto      ClusterKind = "auto"
	ClusterReference ClusterKind = "reference"
	ClusterMean      ClusterKind = "mean"
	ClusterNearest   ClusterKind = "nearest"
)

// ReferenceKind names the source of the references, the embeddings that rollouts are compared with.
type ReferenceKind string

const (
	// ReferencesBatch are the successes of the task in this batch. Where there are none, failures get 0.
	ReferencesBatch ReferenceKind = "batch"
	// ReferencesMemory are those, and the remembered successes of earlier iterations.
	ReferencesMemory ReferenceKind = "memory"
	// ReferencesDemos are demonstrations only (the paper's ablation without self-reference).
	ReferencesDemos ReferenceKind = "demos"
)

// RewardKinds lists the allowed names of a reward, the default first.
func RewardKinds() []string { return names(ZScore, MinMax, Anchored, Binary, Progress) }

// ClusterKinds lists the allowed names of a clustering, the default first.
func ClusterKinds() []string {
	return names(ClusterAuto, ClusterReference, ClusterMean, ClusterNearest)
}

// ReferenceKinds lists the allowed sources of references, the default first.
func ReferenceKinds() []string {
	return names(ReferencesBatch, ReferencesMemory, ReferencesDemos)
}

func names[T ~string](kinds ...T) []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = string(k)
	}
	return out
}

func oneOf(field, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("srpo: %s is %q; use one of %s", field, value, strings.Join(allowed, ", "))
}

// within returns an error for v outside of [low, high]. NaN is outside.
func within(field string, v, low, high float64, hint string) error {
	if v >= low && v <= high {
		return nil
	}
	return fmt.Errorf("srpo: %s is %g, outside of %g to %g; %s", field, v, low, high, hint)
}

// RewardOptions are the settings of ScoreBatch. Start from DefaultRewardOptions.
type RewardOptions struct {
	Kind       RewardKind
	References ReferenceKind
	Cluster    ClusterOptions

	// Alpha is the largest reward of a failure, for zscore, anchored and progress. The paper uses 0.8, and its
	// ablation orders 0.8 > 1.0 > 0.5 > 0.3 > 0. Even at 1.0 a failure earns less than a success: its reward is
	// at most the largest float below 1.
	Alpha float64
	// MinMaxScale, MinMaxSteepness and MinMaxOffset are 0.6, 10 and 0.5 in siiRL's reward.
	MinMaxScale, MinMaxSteepness, MinMaxOffset float64
	// AnchorShare is the share of Alpha that anchored gives to a rollout that ends as far from success as doing
	// nothing does.
	AnchorShare float64

	// Dim is the size of an embedding, which the encoder reports; 0: the most frequent size of the batch.
	Dim int
}

// DefaultRewardOptions returns the paper's settings.
func DefaultRewardOptions() RewardOptions {
	return RewardOptions{
		Kind:            ZScore,
		References:      ReferencesBatch,
		Cluster:         DefaultClusterOptions(),
		Alpha:           0.8,
		MinMaxScale:     0.6,
		MinMaxSteepness: 10,
		MinMaxOffset:    0.5,
		AnchorShare:     0.1,
	}
}

// Validate returns an error that names the first invalid setting and its range.
func (o RewardOptions) Validate() error {
	return cmp.Or(
		oneOf("the reward kind", string(o.Kind), RewardKinds()),
		oneOf("references", string(o.References), ReferenceKinds()),
		o.Cluster.Validate(),
		within("alpha", o.Alpha, 0, 1, "the paper uses 0.8"),
		within("the scale of minmax", o.MinMaxScale, 0, 1, "siiRL uses 0.6"),
		within("the steepness of minmax", o.MinMaxSteepness, 0, 1e6, "siiRL uses 10"),
		within("the offset of minmax", o.MinMaxOffset, -1e6, 1e6, "siiRL uses 0.5"),
		within("the share of anchored", o.AnchorShare, 1e-6, 0.999, "0.1 gives a tenth of alpha for doing nothing"),
		within("the embedding size", float64(o.Dim), 0, 1e9,
			"use the encoder's dimension, or 0 to take it from the batch"),
	)
}

// ClusterOptions are the settings of Cluster. Start from DefaultClusterOptions.
type ClusterOptions struct {
	Kind ClusterKind

	// MinPoints is the neighbourhood of a core point of auto's DBSCAN, the point itself included; 0: max(2,
	// round(ln n)).
	MinPoints int
	// Slack multiplies the largest ordinary k-distance to give auto's eps. Two modes are separated when the gap
	// between them exceeds Slack times the gaps inside them.
	Slack float64
	// OutlierRatio is the jump in the sorted k-distances above which auto treats the last points, at most a
	// quarter of them, as outliers.
	OutlierRatio float64

	// ReferenceEps and ReferenceMinPoints are 0.5 and 2 in siiRL.
	ReferenceEps       float64
	ReferenceMinPoints int
}

// DefaultClusterOptions returns settings that find two modes when there are two.
func DefaultClusterOptions() ClusterOptions {
	return ClusterOptions{
		Kind:               ClusterAuto,
		Slack:              1.2,
		OutlierRatio:       2,
		ReferenceEps:       0.5,
		ReferenceMinPoints: 2,
	}
}

// Validate returns an error that names the first invalid setting and its range.
func (o ClusterOptions) Validate() error {
	const fewest = "the minimum points of "
	return cmp.Or(oneOf("cluster", string(o.Kind), ClusterKinds()),
		within(fewest+"auto", float64(o.MinPoints), 0, 1e9, "use 0 to derive it from the number of references"),
		within("the slack of auto", o.Slack, 1, 1e3, "1.2 is the default"),
		within("the outlier ratio of auto", o.OutlierRatio, 1, 1e6, "2 is the default"),
		within("the eps of the reference clustering", o.ReferenceEps, 1e-12, 1e12, "siiRL uses 0.5"),
		within(fewest+"the reference clustering", float64(o.ReferenceMinPoints), 1, 1e9, "siiRL uses 2"))
}
