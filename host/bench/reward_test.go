package bench

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

func TestReward(t *testing.T) {
	s, err := Reward(t.Context(), RewardOptions{Sizes: []int{8, 40}, Dim: 16, Repeats: 1})
	require.NoError(t, err)
	rows := s.Tables[0].Rows
	require.Len(t, rows, 2)
	require.Equal(t, 2.0, rows[1].Values["centres"], "both modes are found")
	for _, r := range rows {
		require.Len(t, r.Cells, len(s.Tables[0].Columns))
		require.Positive(t, r.Values["batch"])
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Reward(ctx, RewardOptions{Sizes: []int{8}, Dim: 4})
	require.Equal(t, plugins.Canceled, plugins.KindOf(err))
}
