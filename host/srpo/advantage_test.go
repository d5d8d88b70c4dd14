package srpo

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scored makes rollouts a, b, c ... with the given rewards; a reward of 1 is a success.
func scored(rewards ...float64) []Scored {
	out := make([]Scored, len(rewards))
	for i, g := range rewards {
		out[i] = Scored{Rollout{ID: string(rune('a' + i)), Success: g == 1}, Score{Reward: g}}
	}
	return out
}

func TestAdvantages(t *testing.T) {
	opt := DefaultAdvantageOptions()
	opt.Eps = 0.01
	rollouts := scored(1, 0.5, 0, 0.3)
	rollouts[3].Dropped = true
	got, groups, err := Advantages(rollouts, opt)
	require.NoError(t, err)
	std := math.Sqrt(0.5/3 + 0.01) // population variance of 1, 0.5, 0 is 0.5/3
	assert.InDelta(t, 0.5/std, got[0].Value, 1e-12)
	assert.InDelta(t, 0, got[1].Value, 1e-12)
	assert.InDelta(t, -0.5/std, got[2].Value, 1e-12)
	assert.Equal(t, Advantage{Masked: true}, got[3])
	require.Len(t, groups, 1)
	assert.Equal(t, 4, groups[0].Members)
	assert.Equal(t, 1, groups[0].Dropped)
	assert.Equal(t, 1, groups[0].Successes)
	assert.InDelta(t, 0.5, groups[0].Mean, 1e-12)
	assert.InDelta(t, math.Sqrt(0.5/3), groups[0].Std, 1e-12)
	assert.True(t, groups[0].Signal)
}

func TestGroupsWithoutSignal(t *testing.T) {
	for _, rewards := range [][]float64{
		{0.1, 0.1, 0.1}, // 0.1 summed three times is not 0.3: still exactly no signal
		{1, 1},
		{0.4}, // a lone member; siiRL would give it 0.4
	} {
		got, groups, err := Advantages(scored(rewards...), DefaultAdvantageOptions())
		require.NoError(t, err)
		for _, a := range got {
			assert.Equal(t, Advantage{}, a)
		}
		assert.False(t, groups[0].Signal)
	}
	rollouts := scored(0, 0)
	rollouts[0].Dropped, rollouts[1].Dropped = true, true
	got, groups, err := Advantages(rollouts, DefaultAdvantageOptions())
	require.NoError(t, err)
	assert.True(t, got[0].Masked && got[1].Masked)
	assert.Equal(t, GroupSummary{Members: 2, Dropped: 2}, groups[0])
}

func TestAdvantagesByGroup(t *testing.T) {
	rollouts := scored(1, 0.2, 0.6, 0.1, 0, 0.7)
	for i, group := range []string{"x", "x", "y", "y", "x", "z"} {
		rollouts[i].Group = group
	}
	rollouts[4].Task = "other task"
	rollouts[5].ReferenceOnly = true
	got, groups, err := Advantages(rollouts, DefaultAdvantageOptions())
	require.NoError(t, err)
	require.Len(t, groups, 3)
	assert.InDelta(t, 1, got[2].Value, 1e-6, "the best of its group")
	assert.Zero(t, got[4].Value)
	assert.Equal(t, Advantage{Masked: true}, got[5], "its group was dropped")
}

func TestRewardWeight(t *testing.T) {
	opt := DefaultAdvantageOptions()
	once, groups, err := Advantages(scored(1, 0.2), opt)
	require.NoError(t, err)
	assert.InDelta(t, 0.6, groups[0].Mean, 1e-12)
	opt.RewardWeight = 5
	five, groups, err := Advantages(scored(1, 0.2), opt)
	require.NoError(t, err)
	assert.InDelta(t, 3, groups[0].Mean, 1e-12)
	assert.InDelta(t, once[0].Value, five[0].Value, 1e-6, "the normalisation cancels the weight")
	assert.NotEqual(t, once[0].Value, five[0].Value, "up to eps")
}

func TestAdvantagesRefuse(t *testing.T) {
	rollouts := scored(1, math.NaN())
	_, _, err := Advantages(rollouts, DefaultAdvantageOptions())
	assert.ErrorContains(t, err, `the reward of "b" is NaN`)
	rollouts[1].ID = "a"
	_, _, err = Advantages(rollouts, DefaultAdvantageOptions())
	assert.ErrorContains(t, err, `two rollouts have the ID "a"`)
	for want, opt := range map[string]AdvantageOptions{
		"eps of the advantage is 0": {RewardWeight: 1},
		"the reward weight is 0":    {Eps: 1},
	} {
		_, _, err = Advantages(nil, opt)
		assert.ErrorContains(t, err, want)
	}
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
		`of "x" is empty`:                     {{"x", nil}},
		`of "x" is NaN at step 1`:             {{"x", []float64{0, math.NaN()}}},
		`two progress curves have the ID "x"`: {{"x", []float64{0}}, {"x", []float64{0}}},
		`progress curve 0 has no ID`:          {{"", []float64{0}}},
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
