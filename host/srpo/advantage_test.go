package srpo

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// graded makes rollouts of one task and their scores.
func graded(rewards map[string]float64, group map[string]string) (rollouts []Rollout, scores []Score) {
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		if g, ok := rewards[id]; ok {
			rollouts = append(rollouts, Rollout{ID: id, Group: group[id], Success: g == 1})
			scores = append(scores, Score{ID: id, Reward: g})
		}
	}
	return rollouts, scores
}

func TestAdvantages(t *testing.T) {
	opt := DefaultAdvantageOptions()
	opt.Eps = 0.01
	rollouts, scores := graded(map[string]float64{"a": 1, "b": 0.5, "c": 0, "d": 0.3}, nil)
	scores[3].Dropped = true
	got, groups, err := Advantages(rollouts, scores, opt)
	require.NoError(t, err)
	std := math.Sqrt(0.5/3 + 0.01) // population variance of 1, 0.5, 0 is 0.5/3
	assert.InDelta(t, 0.5/std, got[0].Value, 1e-12)
	assert.InDelta(t, 0, got[1].Value, 1e-12)
	assert.InDelta(t, -0.5/std, got[2].Value, 1e-12)
	assert.Equal(t, Advantage{ID: "d", Masked: true}, got[3])
	require.Len(t, groups, 1)
	assert.Equal(t, 4, groups[0].Members)
	assert.Equal(t, 1, groups[0].Dropped)
	assert.Equal(t, 1, groups[0].Successes)
	assert.InDelta(t, 0.5, groups[0].Mean, 1e-12)
	assert.InDelta(t, math.Sqrt(0.5/3), groups[0].Std, 1e-12)
	assert.True(t, groups[0].Signal)
}

func TestGroupsWithoutSignal(t *testing.T) {
	for _, rewards := range []map[string]float64{
		{"a": 0.1, "b": 0.1, "c": 0.1}, // 0.1 summed thrice is not 0.3: still exactly no signal
		{"a": 1, "b": 1},
		{"a": 0.4}, // a lone member; the reference would give it 0.4
	} {
		rollouts, scores := graded(rewards, nil)
		got, groups, err := Advantages(rollouts, scores, DefaultAdvantageOptions())
		require.NoError(t, err)
		for _, a := range got {
			assert.Equal(t, Advantage{ID: a.ID}, a)
		}
		assert.False(t, groups[0].Signal)
	}
	rollouts, scores := graded(map[string]float64{"a": 0, "b": 0}, nil)
	scores[0].Dropped, scores[1].Dropped = true, true
	got, groups, err := Advantages(rollouts, scores, DefaultAdvantageOptions())
	require.NoError(t, err)
	assert.True(t, got[0].Masked && got[1].Masked)
	assert.Equal(t, GroupSummary{Members: 2, Dropped: 2}, groups[0])
}

func TestAdvantagesByGroupAndByTask(t *testing.T) {
	rollouts, scores := graded(
		map[string]float64{"a": 1, "b": 0.2, "c": 0.6, "d": 0.1},
		map[string]string{"a": "x", "b": "x", "c": "y", "d": "y"})
	rollouts = append(rollouts, Rollout{ID: "other", Task: "other task", Group: "x"})
	scores = append(scores, Score{ID: "other"})
	byGroup, groups, err := Advantages(rollouts, scores, DefaultAdvantageOptions())
	require.NoError(t, err)
	require.Len(t, groups, 3)
	assert.InDelta(t, 1, byGroup[2].Value, 1e-6, "the best of its group")
	assert.Zero(t, byGroup[4].Value)
	opt := DefaultAdvantageOptions()
	opt.By = ByTask
	byTask, groups, err := Advantages(rollouts, scores, opt)
	require.NoError(t, err)
	require.Len(t, groups, 2)
	assert.Equal(t, 4, groups[0].Members)
	assert.Less(t, byTask[2].Value, 0.5)
	assert.Greater(t, byTask[2].Value, 0.0)
}

func TestRewardWeight(t *testing.T) {
	rollouts, scores := graded(map[string]float64{"a": 1, "b": 0.2}, nil)
	opt := DefaultAdvantageOptions()
	once, groups, err := Advantages(rollouts, scores, opt)
	require.NoError(t, err)
	assert.InDelta(t, 0.6, groups[0].Mean, 1e-12)
	opt.RewardWeight = 5
	five, groups, err := Advantages(rollouts, scores, opt)
	require.NoError(t, err)
	assert.InDelta(t, 3, groups[0].Mean, 1e-12)
	assert.InDelta(t, once[0].Value, five[0].Value, 1e-6, "the normalisation cancels it")
	assert.NotEqual(t, once[0].Value, five[0].Value, "but for eps")
}

func TestAdvantagesRefuseWhatDoesNotFit(t *testing.T) {
	rollouts, scores := graded(map[string]float64{"a": 1, "b": 0.2}, nil)
	_, _, err := Advantages(rollouts, scores[:1], DefaultAdvantageOptions())
	assert.ErrorContains(t, err, "1 scores for 2 rollouts")
	_, _, err = Advantages(rollouts, []Score{scores[1], scores[0]}, DefaultAdvantageOptions())
	assert.ErrorContains(t, err, `score 0 is of "b" and the rollout is "a"`)
	scores[1].Reward = math.NaN()
	_, _, err = Advantages(rollouts, scores, DefaultAdvantageOptions())
	assert.ErrorContains(t, err, `the reward of "b" is NaN`)
	for want, opt := range map[string]AdvantageOptions{
		`is "all"; use one of group, task`: {By: "all", Eps: 1, RewardWeight: 1},
		"eps of the advantage is 0":        {By: ByGroup, RewardWeight: 1},
		"the reward weight is 0":           {By: ByGroup, Eps: 1},
	} {
		_, _, err = Advantages(nil, nil, opt)
		assert.ErrorContains(t, err, want)
	}
}

func TestKeepGroup(t *testing.T) {
	for _, c := range []struct {
		successes, n int
		want         bool
	}{{0, 8, false}, {1, 8, true}, {7, 8, true}, {8, 8, false}, {1, 10, true}, {9, 10, true}, {1, 11, false}, {3, 30, true}, {0, 0, false}} {
		assert.Equal(t, c.want, KeepGroup(c.successes, c.n, 0.1, 0.9), "%d of %d", c.successes, c.n)
	}
	assert.True(t, KeepGroup(0, 8, 0, 1))
}

func TestProgressAdvantages(t *testing.T) {
	curves := []Curve{{"b", []float64{0, 0.5, 1}}, {"a", []float64{0, 0.1}}, {"c", []float64{0.3}}}
	got, err := ProgressAdvantages(curves, 0.01)
	require.NoError(t, err)
	m := 1.1 / 3 // D = 0.5, 0.5, 0.1
	std := math.Sqrt((2*(0.5-m)*(0.5-m)+(0.1-m)*(0.1-m))/3 + 0.01)
	assert.InDeltaSlice(t, []float64{(0.5 - m) / std, (0.5 - m) / std}, got[0], 1e-12)
	assert.InDeltaSlice(t, []float64{(0.1 - m) / std}, got[1], 1e-12)
	assert.Empty(t, got[2])

	var many, turned []Curve
	for i := range 30 {
		many = append(many, Curve{string(rune('A' + i)), splitmix(uint64(i), 9)})
	}
	for i := range many {
		turned = append(turned, many[len(many)-1-i])
	}
	forward, err := ProgressAdvantages(many, 1e-8)
	require.NoError(t, err)
	backward, err := ProgressAdvantages(turned, 1e-8)
	require.NoError(t, err)
	for i := range many {
		require.Equal(t, forward[i], backward[len(many)-1-i], "the order changes no bit")
	}

	for want, bad := range map[string][]Curve{
		`of "x" is empty`:         {{"x", nil}},
		`of "x" is NaN at step 1`: {{"x", []float64{0, math.NaN()}}},
		`is called "x"`:           {{"x", []float64{0}}, {"x", []float64{0}}},
		`is called ""`:            {{"", []float64{0}}},
	} {
		_, err := ProgressAdvantages(bad, 1e-8)
		assert.ErrorContains(t, err, want)
	}
	_, err = ProgressAdvantages(curves, 0)
	assert.ErrorContains(t, err, "eps of the advantage is 0")
	none, err := ProgressAdvantages([]Curve{{"x", []float64{1}}}, 1e-8)
	require.NoError(t, err)
	assert.Len(t, none, 1)
}

func TestRegressionWeight(t *testing.T) {
	assert.InDelta(t, math.E, RegressionWeight(2, 2, 20), 1e-12)
	assert.Equal(t, 20.0, RegressionWeight(1e6, 1, 20))
	assert.Less(t, RegressionWeight(-1, 1, 20), 1.0)
}
