package train

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/store"
	"github.com/srpo-dev/srpo/plugins"
)

func TestChangedPlugins(t *testing.T) {
	began := []store.Plugin{
		{Kind: plugins.Env, Name: "reach", Version: "1.0", Hash: "aa"},
		{Kind: plugins.Policy, Name: "tiny", Version: "0.1.0"},
	}
	require.Empty(t, changedPlugins(began, began))
	require.Empty(t, changedPlugins(nil, began), "a run without recorded plugins")
	require.Equal(
		t,
		[]string{"the package of env reach 1.0 has changed", "policy tiny 0.1.0 is now tiny 0.2.0"},
		changedPlugins(
			began,
			[]store.Plugin{
				{Kind: plugins.Env, Name: "reach", Version: "1.0", Hash: "bb"},
				{Kind: plugins.Policy, Name: "tiny", Version: "0.2.0"},
			},
		),
	)
}
