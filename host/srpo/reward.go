package srpo

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat"
)

// Known is what is known of the tasks from outside the batch. Every field may be
// nil where the options do not ask for it.
type Known struct {
	// Memory holds successes of earlier iterations, for ReferencesMemory.
	Memory *Memory
	// Demos holds embeddings of demonstrations by task, for ReferencesDemos.
	Demos map[string][][]float64
	// Anchors holds by task the embedding of "nothing happened" (the first frame held
	// still for the length of a clip), for Anchored.
	Anchors map[string][]float64
	// Yardsticks holds by task the distance of Anchored, in the units of the
	// embedding, and is used before Anchors. TaskSummary.Yardstick of the first
	// scored iteration, kept, makes the reward mean the same in all later ones.
	Yardsticks map[string]float64
}

// TaskSummary says how the rollouts of one task were scored.
type TaskSummary struct {
	Task                string
	Successes, Failures int
	// Unlabelled is the number of rollouts without a verdict; they are not among Failures.
	Unlabelled int
	// References is the number of embeddings that were clustered, Clusters that of
	// their centres, of Sizes members each, Noise that of references in no cluster.
	References, Clusters, Noise int
	Sizes                       []int
	// Eps is DBSCAN's radius, see Clustering.
	Eps float64
	// FellBack: clustering found nothing to go by and took the mean.
	FellBack bool
	// Unusable is the number of the batch's embeddings that no cluster and no distance saw, Dropped that of the
	// failures that no update may see.
	Unusable, Dropped int
	// Repeated is the number of usable embeddings that equal another one of the task in every
	// bit. In a group that samples its actions it should be 0: two rollouts that share a video
	// share a reward, and SRPO becomes GRPO.
	Repeated int
	// MeanDistance and StdDistance (population) are over the scored failures; where there is none, over the unlabelled rollouts.
	MeanDistance, StdDistance float64
	// Yardstick is the distance that Anchored divided by, 0 otherwise.
	Yardstick float64
	// Kind is the reward that was used, which differs from the one asked for where Notes say why.
	Kind RewardKind
	// Notes are sentences for the log: what fell back, what was missing.
	Notes []string
}

// Scored is the result of ScoreBatch.
type Scored struct {
	Scores []Score       // one a rollout, in the order of the input
	Tasks  []TaskSummary // sorted by task
}

// ScoreBatch gives every rollout of a batch its reward, task by task:
//
//  1. References: the embeddings of successes (of the batch, with memory, or of demonstrations).
//  2. Cluster:    C = {c_j}, the centres of the references.
//  3. Distance:   d_i = min_j ||h_i - c_j||_2, not squared.
//  4. Reward:     g_i = 1 for a success, f(d_i) in [0, 1) for a failure.
//
// A success gets 1 also when its embedding is unusable (the reference gives it 0). A
// failure with an unusable embedding gets 0 and is dropped, except under binary
// and progress, which read no embedding (and measure distances only for Diagnose). A task without references pays its failures 0.
//
// Progress is no reward that a real robot could have: a failure gets alpha times the environment's own progress. It is the control that says
// what a perfect encoder could give.
//
// An unlabelled rollout is paid as a failure at its distance, with the mean, spread and range of the task's failures; a task
// that has only unlabelled ones measures them against each other. No other reward depends on it.
//
// The result does not depend on the order of the rollouts. The error names the
// option or the rollout that is wrong; one bad embedding is not an error.
func ScoreBatch(rollouts []Rollout, known Known, opt RewardOptions) (Scored, error) {
	if err := opt.Validate(); err != nil {
		return Scored{}, err
	}
	if opt.Kind == Anchored && len(known.Anchors) == 0 && len(known.Yardsticks) == 0 {
		return Scored{}, fmt.Errorf("srpo: the reward %q needs an anchor; encode the first frame held still for each task, or use %q", Anchored, ZScore)
	}
	if opt.References == ReferencesMemory && known.Memory == nil {
		return Scored{}, fmt.Errorf("srpo: references are %q and there is no memory; make one with NewMemory and let it Remember each iteration", ReferencesMemory)
	}
	if opt.References == ReferencesDemos && len(known.Demos) == 0 {
		return Scored{}, fmt.Errorf("srpo: references are %q and there are no demonstrations; encode some, or use %q", ReferencesDemos, ReferencesBatch)
	}
	order, err := byID(rollouts)
	if err != nil {
		return Scored{}, err
	}
	if opt.Dim == 0 {
		opt.Dim = embeddingSize(rollouts)
	}
	scored := Scored{Scores: make([]Score, len(rollouts))}
	names, members := inTasks(rollouts, order)
	for _, task := range names {
		summary, err := scoreTask(task, members[task], rollouts, scored.Scores, known, opt)
		if err != nil {
			return Scored{}, fmt.Errorf("srpo: task %q: %w", task, err)
		}
		scored.Tasks = append(scored.Tasks, summary)
	}
	return scored, nil
}

// scoreTask fills the scores of one task's members (indices in ID order).
func scoreTask(task string, members []int, rollouts []Rollout, scores []Score, known Known, opt RewardOptions) (TaskSummary, error) {
	summary := TaskSummary{Task: task, Kind: opt.Kind}

	// The verdicts, and which embeddings are fit for use.
	var successes, failures, unlabelled []int
	for _, i := range members {
		r := rollouts[i]
		if r.Success && r.Unlabelled {
			return summary, fmt.Errorf("rollout %q is a success and has no label; it can be one of the two", r.ID)
		}
		why := CheckEmbedding(r.Embedding, opt.Dim)
		if why != "" {
			why = "the embedding " + why
		}
		scores[i] = Score{ID: r.ID, Centre: -1, Reason: why}
		if r.Success {
			scores[i].Reward = 1
			summary.Successes++
		} else {
			if r.Unlabelled {
				summary.Unlabelled++
			} else {
				summary.Failures++
			}
			scores[i].Dropped = why != "" && opt.Kind.Embeds()
			if opt.Kind == Progress {
				if r.Progress == nil || math.IsNaN(*r.Progress) {
					return summary, fmt.Errorf("rollout %q has no progress, which the reward %q pays; this environment reports none, use %q or %q", r.ID, Progress, ZScore, Binary)
				}
				scores[i].Reward = math.Min(opt.Alpha*min(max(*r.Progress, 0), 1), math.Nextafter(1, 0))
			}
		}
		switch {
		case why != "":
			summary.Unusable++
		case r.Success:
			successes = append(successes, i)
		case r.Unlabelled:
			unlabelled = append(unlabelled, i)
		default:
			failures = append(failures, i)
		}
		if scores[i].Dropped {
			summary.Dropped++
		}
	}
	summary.Repeated = repeated(rollouts, successes, failures, unlabelled)

	// 1. References.
	references, notes := referencesOf(task, successes, rollouts, known, opt)
	summary.References = len(references)
	summary.Notes = append(summary.Notes, notes...)
	if len(references) == 0 {
		if opt.Kind != Progress { // whose failures are paid already
			summary.Notes = append(summary.Notes, fmt.Sprintf("no reference from %q: failures are paid 0", opt.References))
		}
		return summary, nil
	}

	// 2. Cluster.
	clusters, err := Cluster(references, opt.Cluster)
	if err != nil {
		return summary, err
	}
	summary.Clusters, summary.Sizes, summary.Eps = len(clusters.Centres), clusters.Sizes, clusters.Eps
	for _, l := range clusters.Labels {
		if l == Noise {
			summary.Noise++
		}
	}
	if clusters.Fallback != "" {
		summary.FellBack = true
		summary.Notes = append(summary.Notes, "one mean of all references: "+clusters.Fallback)
	}

	// 3. Distance.
	for k, i := range successes {
		h := rollouts[i].Embedding
		if opt.References == ReferencesDemos {
			scores[i].Distance, scores[i].Centre = clusters.Nearest(h)
		} else {
			scores[i].Distance, scores[i].Centre = clusters.NearestHeldOut(h, k) // successes come first among the references
		}
	}
	paid := append(failures, unlabelled...)
	d := make([]float64, len(paid))
	for k, i := range paid {
		d[k], scores[i].Centre = clusters.Nearest(rollouts[i].Embedding)
		scores[i].Distance = d[k]
	}
	if len(d) == 0 {
		return summary, nil
	}
	base := d[:len(failures)] // whose mean, spread and range count
	if len(base) == 0 {
		base = d
	}
	summary.MeanDistance, summary.StdDistance = stat.PopMeanStdDev(base, nil)

	// 4. Reward.
	var g []float64
	switch opt.Kind {
	case Anchored:
		yardstick, why := yardstickOf(task, clusters, known, opt)
		if why == "" {
			summary.Yardstick = yardstick
			g = AnchoredRewards(d, yardstick, opt.Alpha, opt.AnchorShare)
			break
		}
		summary.Kind = ZScore
		summary.Notes = append(summary.Notes, fmt.Sprintf("%s: rewarded by %q instead of %q", why, ZScore, Anchored))
		g = zscoreAmong(base, d, opt.Alpha)
	case ZScore:
		g = zscoreAmong(base, d, opt.Alpha)
	case MinMax:
		g = minMaxAmong(base, d, opt.MinMaxScale, opt.MinMaxSteepness, opt.MinMaxOffset)
	default: // paid above
		return summary, nil
	}
	for k, i := range paid {
		scores[i].Reward = math.Min(g[k], math.Nextafter(1, 0)) // whatever the options, no failure reaches a success
	}
	return summary, nil
}

// ZScoreRewards is the paper's reward of failures at distances d (at least 0):
//
//	g = alpha * sigmoid(-z),   z = (d - mean(d)) / std(d)
//
// with the population std, over the failures of the batch's task. The printed
// formula lacks the minus sign and would pay the farther failure more. One
// failure, or distances that are equal up to rounding (std <= 1e-9 mean): z = 0, g = alpha/2.
func ZScoreRewards(d []float64, alpha float64) []float64 { return zscoreAmong(d, d, alpha) }

// zscoreAmong pays d with the mean and std of base.
func zscoreAmong(base, d []float64, alpha float64) []float64 {
	g := make([]float64, len(d))
	m, std := 0.0, 0.0
	if len(base) > 0 {
		m, std = stat.PopMeanStdDev(base, nil)
	}
	for i := range d {
		z := 0.0
		if std > 1e-9*m {
			z = (d[i] - m) / std
		}
		g[i] = alpha * sigmoid(-z)
	}
	return g
}

// MinMaxRewards is the reward of the siiRL reference for failures at distances d:
//
//	g = scale * sigmoid(steepness * (offset - dn)),   dn = (d - min(d)) / (max(d) - min(d))
//
// and dn = 0.5 where max - min < 1e-6, which is absolute: embeddings of a small
// scale all count as equal. With the reference's 0.6, 10 and 0.5 one lone failure gets 0.30, and
// the nearest of several 0.596, however far it is. The paper standardises instead.
func MinMaxRewards(d []float64, scale, steepness, offset float64) []float64 {
	return minMaxAmong(d, d, scale, steepness, offset)
}

// minMaxAmong pays d with the range of base; beyond it dn leaves [0, 1], and the sigmoid bounds the reward.
func minMaxAmong(base, d []float64, scale, steepness, offset float64) []float64 {
	g := make([]float64, len(d))
	least, most := math.Inf(1), math.Inf(-1)
	for _, v := range base {
		least, most = math.Min(least, v), math.Max(most, v)
	}
	for i := range d {
		dn := 0.5
		if most-least >= 1e-6 {
			dn = (d[i] - least) / (most - least)
		}
		g[i] = scale * sigmoid(steepness*(offset-dn))
	}
	return g
}

// AnchoredRewards pays failures at distances d by a fixed yardstick D > 0 of the
// task, the distance of "nothing happened" to the nearest centre:
//
//	g = alpha * share^(d/D)
//
// alpha at a centre, share*alpha where doing nothing ends, share^2*alpha twice as
// far: bounded, strictly falling, and the same for the same distance in
// every batch and for a lone failure. It is ours, neither the paper's nor the reference's.
func AnchoredRewards(d []float64, yardstick, alpha, share float64) []float64 {
	g := make([]float64, len(d))
	for i := range d {
		g[i] = alpha * math.Pow(share, d[i]/yardstick)
	}
	return g
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// referencesOf gathers the embeddings to be near to: successes of the batch first
// (in ID order, not for demos), then what is known from before.
func referencesOf(task string, successes []int, rollouts []Rollout, known Known, opt RewardOptions) (points [][]float64, notes []string) {
	if opt.References == ReferencesDemos {
		return usableOnly(known.Demos[task], "demonstration", opt.Dim)
	}
	inBatch := map[string]bool{}
	for _, i := range successes {
		points = append(points, rollouts[i].Embedding)
		inBatch[rollouts[i].ID] = true
	}
	if opt.References == ReferencesMemory {
		var earlier [][]float64
		for _, s := range known.Memory.tasks[task] {
			if !inBatch[s.id] {
				earlier = append(earlier, s.embedding)
			}
		}
		earlier, notes = usableOnly(earlier, "remembered success", opt.Dim)
		points = append(points, earlier...)
	}
	return points, notes
}

func usableOnly(points [][]float64, what string, dim int) (usable [][]float64, notes []string) {
	for i, p := range points {
		if why := CheckEmbedding(p, dim); why != "" {
			notes = append(notes, fmt.Sprintf("%s %d is left out: its embedding %s", what, i, why))
			continue
		}
		usable = append(usable, p)
	}
	return usable, notes
}

// yardstickOf gives D of AnchoredRewards, or why there is none.
func yardstickOf(task string, clusters Clustering, known Known, opt RewardOptions) (yardstick float64, why string) {
	if d, ok := known.Yardsticks[task]; ok {
		if d > 0 && !math.IsInf(d, 1) {
			return d, ""
		}
		return 0, fmt.Sprintf("the yardstick is %g", d)
	}
	anchor, ok := known.Anchors[task]
	if !ok {
		return 0, "the task has no anchor"
	}
	if why := CheckEmbedding(anchor, opt.Dim); why != "" {
		return 0, "the anchor " + why
	}
	d, _ := clusters.Nearest(anchor)
	if d == 0 {
		return 0, "the anchor lies on a centre"
	}
	return d, ""
}

// repeated counts the rollouts whose embedding equals an earlier one's in every bit.
func repeated(rollouts []Rollout, lists ...[]int) int {
	count := 0
	seen := map[uint64][]int{}
	for _, list := range lists {
		for _, i := range list {
			key := hashOf(rollouts[i].Embedding)
			for _, j := range seen[key] {
				if equalBits(rollouts[i].Embedding, rollouts[j].Embedding) {
					count++
					break
				}
			}
			seen[key] = append(seen[key], i)
		}
	}
	return count
}

// hashOf is FNV-1a over the bits of the numbers.
func hashOf(h []float64) uint64 {
	sum := uint64(14695981039346656037)
	for _, v := range h {
		sum = (sum ^ math.Float64bits(v)) * 1099511628211
	}
	return sum
}

func equalBits(a, b []float64) bool {
	for i := range a {
		if math.Float64bits(a[i]) != math.Float64bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}
