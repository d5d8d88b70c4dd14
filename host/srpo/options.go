package srpo

import (
	"fmt"
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

// Embeds says whether the kind reads embeddings: binary and progress pay without.
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

// ReferenceKind names where the embeddings to be near to come from.
type ReferenceKind string

const (
	// ReferencesBatch: the successes of the task in this batch. None: failures get 0.
	ReferencesBatch ReferenceKind = "batch"
	// ReferencesMemory: those, and the remembered successes of earlier iterations.
	ReferencesMemory ReferenceKind = "memory"
	// ReferencesDemos: demonstrations only (the paper's ablation without self-reference).
	ReferencesDemos ReferenceKind = "demos"
)

// Grouping names over which rollouts an advantage is normalised.
type Grouping string

const (
	// ByGroup: the M rollouts of one task and one Rollout.Group.
	ByGroup Grouping = "group"
	// ByTask: all rollouts of one task in the batch.
	ByTask Grouping = "task"
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

// Groupings lists the allowed groupings, the default first.
func Groupings() []string { return names(ByGroup, ByTask) }

func names[T ~string](kinds ...T) []string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = string(k)
	}
	return out
}

func oneOf(field, value string, allowed []string) error {
	for _, a := range allowed {
		if a == value {
			return nil
		}
	}
	return fmt.Errorf("srpo: %s is %q; use one of %s", field, value, strings.Join(allowed, ", "))
}

// within refuses v outside [low, high]; NaN is outside.
func within(field string, v, low, high float64, hint string) error {
	if v >= low && v <= high {
		return nil
	}
	return fmt.Errorf("srpo: %s is %g, outside %g to %g; %s", field, v, low, high, hint)
}

// RewardOptions are the settings of ScoreBatch. Start from DefaultRewardOptions.
type RewardOptions struct {
	Kind       RewardKind
	References ReferenceKind
	Cluster    ClusterOptions

	// Alpha is the most that a failure can earn, for zscore, anchored and progress. The paper
	// uses 0.8 and its ablation orders 0.8 > 1.0 > 0.5 > 0.3 > 0. Even at 1.0 no
	// failure reaches a success: rewards stop one float below 1.
	Alpha float64
	// MinMaxScale, MinMaxSteepness and MinMaxOffset are the 0.6, 10 and 0.5 of the
	// reference's reward.
	MinMaxScale, MinMaxSteepness, MinMaxOffset float64
	// AnchorShare is the share of Alpha that a rollout gets that ends as far from
	// success as doing nothing does, for anchored.
	AnchorShare float64

	// Dim is the size an embedding must have (the encoder states it); 0 takes the
	// size that most embeddings of the batch have.
	Dim int
}

// DefaultRewardOptions are the paper's settings.
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

// Validate says which setting cannot work, and what would.
func (o RewardOptions) Validate() error {
	checks := []error{
		oneOf("the reward kind", string(o.Kind), RewardKinds()),
		oneOf("references", string(o.References), ReferenceKinds()),
		o.Cluster.Validate(),
		within("alpha", o.Alpha, 0, 1, "the paper uses 0.8"),
		within("the scale of minmax", o.MinMaxScale, 0, 1, "the reference uses 0.6"),
		within("the steepness of minmax", o.MinMaxSteepness, 0, 1e6, "the reference uses 10"),
		within("the offset of minmax", o.MinMaxOffset, -1e6, 1e6, "the reference uses 0.5"),
		within("the share of anchored", o.AnchorShare, 1e-6, 0.999, "0.1 pays a tenth of alpha for doing nothing"),
		within("the embedding size", float64(o.Dim), 0, 1e9, "use the encoder's dimension, or 0 to take it from the batch"),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// ClusterOptions are the settings of Cluster. Start from DefaultClusterOptions.
type ClusterOptions struct {
	Kind ClusterKind

	// MinPoints is DBSCAN's neighbourhood for auto, the point itself included; 0
	// takes max(2, round(ln n)).
	MinPoints int
	// Slack widens auto's eps over the largest ordinary k-distance. Two modes are told
	// apart when the gap between them exceeds Slack times the gaps inside them.
	Slack float64
	// OutlierRatio is the jump in the sorted k-distances above which auto calls
	// the last points (at most a quarter of them) outliers.
	OutlierRatio float64

	// ReferenceEps and ReferenceMinPoints are the 0.5 and 2 of the reference.
	ReferenceEps       float64
	ReferenceMinPoints int
}

// DefaultClusterOptions find two modes when there are two.
func DefaultClusterOptions() ClusterOptions {
	return ClusterOptions{
		Kind:               ClusterAuto,
		Slack:              1.2,
		OutlierRatio:       2,
		ReferenceEps:       0.5,
		ReferenceMinPoints: 2,
	}
}

// Validate says which setting cannot work, and what would.
func (o ClusterOptions) Validate() error {
	checks := []error{
		oneOf("cluster", string(o.Kind), ClusterKinds()),
		within("the least points of a cluster", float64(o.MinPoints), 0, 1e9, "use 0 to take it from the number of references"),
		within("the slack of auto", o.Slack, 1, 1e3, "1.2 is the default"),
		within("the outlier ratio of auto", o.OutlierRatio, 1, 1e6, "2 is the default"),
		within("the eps of the reference clustering", o.ReferenceEps, 1e-12, 1e12, "the reference uses 0.5"),
		within("the least points of the reference clustering", float64(o.ReferenceMinPoints), 1, 1e9, "the reference uses 2"),
	}
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}
