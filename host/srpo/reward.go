package srpo

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Known is what is known of the tasks from outside the batch. A field may be nil where the options do not use it.
type Known struct {
	// Memory contains successes of earlier iterations, for ReferencesMemory.
	Memory *Memory
	// Demos contains embeddings of demonstrations by task, for ReferencesDemos.
	Demos map[string][][]float64
	// Anchors contains, by task, the embedding of "nothing happened" (the first frame held still for the length of a
	// clip), for Anchored.
	Anchors map[string][]float64
	// ReferenceDistances contains, by task, the distance that Anchored divides by, in the units of the
	// embedding. It takes precedence over Anchors. Keep TaskSummary.ReferenceDistance of the first scored
	// iteration here, so that the reward means the same in all later ones.
	ReferenceDistances map[string]float64
}

// TaskSummary describes how the rollouts of one task were scored.
type TaskSummary struct {
	Task                string
	Successes, Failures int
	// Unlabelled is the number of rollouts without a verdict. They are not among Failures.
	Unlabelled int
	// References is the number of embeddings that were clustered, and Clusters the number of their centres, of Sizes
	// members each. Noise is the number of references in no cluster.
	References, Clusters, Noise int
	Sizes                       []int
	// Eps is DBSCAN's radius, see Clustering.
	Eps float64
	// FellBack: clustering found no structure, and took the mean.
	FellBack bool
	// Unusable is the number of the batch's embeddings that enter no cluster and no distance. Dropped is the
	// number of failures that no update may use.
	Unusable, Dropped int
	// Repeated is the number of usable embeddings that equal another one of the task in every bit. It should be
	// 0 in a group that samples its actions: rollouts that share a video share a reward, and SRPO becomes GRPO.
	Repeated int
	// MeanDistance and StdDistance (population) are over the scored failures; where there is none, over the
	// unlabelled rollouts.
	MeanDistance, StdDistance float64
	// ReferenceDistance is the distance that Anchored divided by, 0 otherwise.
	ReferenceDistance float64
	// Kind is the reward that was used. It differs from the option where Notes give the reason.
	Kind RewardKind
	// Notes are sentences for the log: what fell back, what was missing.
	Notes []string
}

func (s *TaskSummary) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// Batch is the result of ScoreBatch.
type Batch struct {
	Rollouts []Scored      // in the order of the input
	Tasks    []TaskSummary // sorted by task
}

// largestFailure is the largest reward that a failure can have.
var largestFailure = math.Nextafter(1, 0)

// ScoreBatch gives every rollout of a batch its reward, task by task:
//
//  1. References: the embeddings of successes (of the batch, with memory, or of demonstrations).
//  2. Cluster:    C = {c_j}, the centres of the references.
//  3. Distance:   d_i = min_j ||h_i - c_j||_2, not squared.
//  4. Reward:     g_i = 1 for a success, f(d_i) in [0, 1) for a failure.
//
// A success gets 1 even when its embedding is unusable (siiRL gives it 0). A failure with an unusable embedding
// gets 0 and is dropped, except under binary and progress, which read no embedding and measure distances for
// Diagnose only. Failures of a task without references get 0.
//
// Progress is not available on a real robot: a failure gets alpha times the environment's own progress. It is a
// control that shows what a perfect encoder could achieve.
//
// An unlabelled rollout gets the reward of a failure at its distance, with the mean, spread and range of the
// task's failures. In a task without failures the unlabelled ones are compared with each other. No other reward
// depends on them.
//
// The result does not depend on the order of the rollouts. The error names an invalid option or rollout. An unusable
// embedding is not an error.
func ScoreBatch(rollouts []Rollout, known Known, opt RewardOptions) (Batch, error) {
	if err := checkKnown(known, opt); err != nil {
		return Batch{}, err
	}
	order, err := orderByID("rollout", len(rollouts), func(i int) string { return rollouts[i].ID })
	if err != nil {
		return Batch{}, err
	}
	if opt.Dim == 0 {
		opt.Dim = embeddingSize(rollouts)
	}
	batch := Batch{Rollouts: make([]Scored, len(rollouts))}
	for i, r := range rollouts {
		batch.Rollouts[i] = Scored{Rollout: r, Score: Score{Centre: -1}}
	}
	names, members := byTask(order, func(i int) string { return rollouts[i].Task })
	for _, task := range names {
		t := taskScorer{known: known, opt: opt, summary: TaskSummary{Task: task, Kind: opt.Kind}}
		for _, i := range members[task] {
			t.members = append(t.members, &batch.Rollouts[i])
		}
		if err := t.score(); err != nil {
			return Batch{}, fmt.Errorf("srpo: task %q: %w", task, err)
		}
		batch.Tasks = append(batch.Tasks, t.summary)
	}
	return batch, nil
}

// checkKnown checks the options, and that what they use is known.
func checkKnown(known Known, opt RewardOptions) error {
	if err := opt.Validate(); err != nil {
		return err
	}
	switch {
	case opt.Kind == Anchored && len(known.Anchors) == 0 && len(known.ReferenceDistances) == 0:
		return fmt.Errorf(
			"srpo: the reward %q needs an anchor; encode the first frame held still for each task, or use %q",
			Anchored, ZScore)
	case opt.References == ReferencesMemory && known.Memory == nil:
		return fmt.Errorf("srpo: references are %q and there is no memory; "+
			"create one with NewMemory and call Remember after each iteration", ReferencesMemory)
	case opt.References == ReferencesDemos && len(known.Demos) == 0:
		return fmt.Errorf("srpo: references are %q and there are no demonstrations; encode some, or use %q",
			ReferencesDemos, ReferencesBatch)
	}
	return nil
}

// taskScorer scores one task.
type taskScorer struct {
	members []*Scored // in the order of IDs
	known   Known
	opt     RewardOptions
	summary TaskSummary

	// The members with a usable embedding.
	successes, failures, unlabelled []*Scored
}

func (t *taskScorer) score() error {
	for _, r := range t.members {
		if err := t.classify(r); err != nil {
			return err
		}
	}
	t.summary.Repeated = repeated(slices.Concat(t.successes, t.failures, t.unlabelled))

	references := t.references() // step 1
	t.summary.References = len(references)
	if len(references) == 0 {
		if t.opt.Kind != Progress { // its rewards need no reference
			t.summary.note("no reference from %q: failures get 0", t.opt.References)
		}
		return nil
	}
	clusters, err := t.cluster(references) // step 2
	if err != nil {
		return err
	}
	t.measure(clusters) // step 3
	t.reward(clusters)  // step 4
	return nil
}

// classify counts a rollout by its verdict, checks its embedding, and sets the part of the reward that needs no
// distance.
func (t *taskScorer) classify(r *Scored) error {
	if r.Success && r.Unlabelled {
		return fmt.Errorf("rollout %q is both a success and unlabelled", r.ID)
	}
	if why := CheckEmbedding(r.Embedding, t.opt.Dim); why != "" {
		r.Reason = "the embedding " + why
		t.summary.Unusable++
	}
	list := &t.failures
	switch {
	case r.Success:
		r.Reward = 1
		t.summary.Successes++
		list = &t.successes
	case r.Unlabelled:
		t.summary.Unlabelled++
		list = &t.unlabelled
	default:
		t.summary.Failures++
	}
	if r.Reason == "" {
		*list = append(*list, r)
	}
	if r.Success {
		return nil
	}
	if r.Reason != "" && t.opt.Kind.Embeds() {
		r.Dropped = true
		t.summary.Dropped++
	}
	if t.opt.Kind == Progress {
		if r.Progress == nil || math.IsNaN(*r.Progress) {
			return fmt.Errorf(
				"rollout %q has no progress, which the reward %q needs; this environment reports none, use %q or %q",
				r.ID, Progress, ZScore, Binary)
		}
		r.Reward = math.Min(t.opt.Alpha*min(max(*r.Progress, 0), 1), largestFailure)
	}
	return nil
}

// references returns the embeddings to compare with: successes of the batch first (not for demos), then those
// known from outside the batch.
func (t *taskScorer) references() (points [][]float64) {
	if t.opt.References == ReferencesDemos {
		return t.usable(t.known.Demos[t.summary.Task], "demonstration")
	}
	inBatch := map[string]bool{}
	for _, r := range t.successes {
		points = append(points, r.Embedding)
		inBatch[r.ID] = true
	}
	if t.opt.References == ReferencesMemory {
		var earlier [][]float64
		for _, s := range t.known.Memory.tasks[t.summary.Task] {
			if !inBatch[s.id] {
				earlier = append(earlier, s.embedding)
			}
		}
		points = append(points, t.usable(earlier, "remembered success")...)
	}
	return points
}

func (t *taskScorer) usable(points [][]float64, what string) (usable [][]float64) {
	for i, p := range points {
		if why := CheckEmbedding(p, t.opt.Dim); why != "" {
			t.summary.note("%s %d is left out: its embedding %s", what, i, why)
			continue
		}
		usable = append(usable, p)
	}
	return usable
}

func (t *taskScorer) cluster(references [][]float64) (Clustering, error) {
	clusters, err := Cluster(references, t.opt.Cluster)
	if err != nil {
		return clusters, err
	}
	s := &t.summary
	s.Clusters, s.Sizes, s.Eps = len(clusters.Centres), clusters.Sizes, clusters.Eps
	for _, l := range clusters.Labels {
		if l == Noise {
			s.Noise++
		}
	}
	if clusters.Fallback != "" {
		s.FellBack = true
		s.note("one mean of all references: %s", clusters.Fallback)
	}
	return clusters, nil
}

// measure sets the distance to the nearest centre of every rollout with a usable embedding.
func (t *taskScorer) measure(clusters Clustering) {
	for k, r := range t.successes {
		if t.opt.References == ReferencesDemos {
			r.Distance, r.Centre = clusters.Nearest(r.Embedding)
		} else { // successes are the first references
			r.Distance, r.Centre = clusters.NearestHeldOut(r.Embedding, k)
		}
	}
	for _, r := range slices.Concat(t.failures, t.unlabelled) {
		r.Distance, r.Centre = clusters.Nearest(r.Embedding)
	}
}

// reward sets the rewards of failures and unlabelled rollouts from their distances.
func (t *taskScorer) reward(clusters Clustering) {
	rollouts := slices.Concat(t.failures, t.unlabelled)
	if len(rollouts) == 0 {
		return
	}
	d := make([]float64, len(rollouts))
	for k, r := range rollouts {
		d[k] = r.Distance
	}
	base := d[:len(t.failures)] // the distances whose mean, spread and range count
	if len(base) == 0 {
		base = d
	}
	t.summary.MeanDistance, t.summary.StdDistance = stat.PopMeanStdDev(base, nil)

	var g []float64
	switch t.opt.Kind {
	case Anchored:
		if distance, err := t.referenceDistance(clusters); err != nil {
			t.summary.Kind = ZScore
			t.summary.note("%v: the reward is %q instead of %q", err, ZScore, Anchored)
			g = zscoreAmong(base, d, t.opt.Alpha)
		} else {
			t.summary.ReferenceDistance = distance
			g = AnchoredRewards(d, distance, t.opt.Alpha, t.opt.AnchorShare)
		}
	case ZScore:
		g = zscoreAmong(base, d, t.opt.Alpha)
	case MinMax:
		g = minMaxAmong(base, d, t.opt.MinMaxScale, t.opt.MinMaxSteepness, t.opt.MinMaxOffset)
	default: // Binary and Progress do not depend on distances
		return
	}
	for k, r := range rollouts {
		r.Reward = math.Min(g[k], largestFailure)
	}
}

// referenceDistance returns D of AnchoredRewards. The error is a reason without a prefix.
func (t *taskScorer) referenceDistance(clusters Clustering) (float64, error) {
	if d, ok := t.known.ReferenceDistances[t.summary.Task]; ok {
		if d > 0 && !math.IsInf(d, 1) {
			return d, nil
		}
		return 0, fmt.Errorf("the reference distance is %g", d)
	}
	anchor, ok := t.known.Anchors[t.summary.Task]
	if !ok {
		return 0, errors.New("the task has no anchor")
	}
	if why := CheckEmbedding(anchor, t.opt.Dim); why != "" {
		return 0, errors.New("the anchor " + why)
	}
	d, _ := clusters.Nearest(anchor)
	if d == 0 {
		return 0, errors.New("the anchor lies on a centre")
	}
	return d, nil
}

// ZScoreRewards is the paper's reward of failures at distances d, which are at least 0:
//
//	g = alpha * sigmoid(-z),   z = (d - mean(d)) / std(d)
//
// with the population standard deviation, over the failures of the batch's task. The printed formula lacks the
// minus sign and would give farther failures more. For one failure, and for distances that are equal up to
// rounding (std <= 1e-9 mean), z = 0 and g = alpha/2.
func ZScoreRewards(d []float64, alpha float64) []float64 { return zscoreAmong(d, d, alpha) }

// zscoreAmong is ZScoreRewards with the mean and standard deviation of base.
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

// MinMaxRewards is siiRL's reward of failures at distances d:
//
//	g = scale * sigmoid(steepness * (offset - dn)),   dn = (d - min(d)) / (max(d) - min(d))
//
// and dn = 0.5 where max - min < 1e-6. This bound is absolute: embeddings of a small scale all count as equal. With
// siiRL's 0.6, 10 and 0.5 a lone failure gets 0.30, and the nearest of several 0.596, at any distance. The paper
// standardises instead.
func MinMaxRewards(d []float64, scale, steepness, offset float64) []float64 {
	return minMaxAmong(d, d, scale, steepness, offset)
}

// minMaxAmong is MinMaxRewards with the range of base. Outside of the range dn leaves [0, 1], and the sigmoid
// bounds the reward.
func minMaxAmong(base, d []float64, scale, steepness, offset float64) []float64 {
	g := make([]float64, len(d))
	if len(d) == 0 {
		return g
	}
	low, high := slices.Min(base), slices.Max(base)
	for i := range d {
		dn := 0.5
		if high-low >= 1e-6 {
			dn = (d[i] - low) / (high - low)
		}
		g[i] = scale * sigmoid(steepness*(offset-dn))
	}
	return g
}

// AnchoredRewards is the reward of failures at distances d, relative to a fixed distance D > 0 of the task, that of
// "nothing happened" from the nearest centre:
//
//	g = alpha * share^(d/D)
//
// It is alpha at a centre, share*alpha where doing nothing ends, and share^2*alpha twice as far: bounded,
// strictly falling, and the same for the same distance in every batch and for a lone failure. Neither the paper
// nor siiRL has it.
func AnchoredRewards(d []float64, referenceDistance, alpha, share float64) []float64 {
	g := make([]float64, len(d))
	for i := range d {
		g[i] = alpha * math.Pow(share, d[i]/referenceDistance)
	}
	return g
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// repeated counts the rollouts whose embedding equals an earlier one's in every bit.
func repeated(rollouts []*Scored) int {
	count := 0
	seen := map[uint64][]*Scored{}
	for _, r := range rollouts {
		key := hashOf(r.Embedding)
		if slices.ContainsFunc(seen[key], func(o *Scored) bool { return equalBits(r.Embedding, o.Embedding) }) {
			count++
		}
		seen[key] = append(seen[key], r)
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
	return slices.EqualFunc(a, b, func(x, y float64) bool { return math.Float64bits(x) == math.Float64bits(y) })
}
