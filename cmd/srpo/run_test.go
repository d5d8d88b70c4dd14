package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/host/config"
)

// TestNextRun checks the command that srpo imitate prints to train the starting policy, with and without default
// settings.
func TestNextRun(t *testing.T) {
	cfg := config.Default()
	require.Equal(t, "srpo run --checkpoint /r", nextRun(cfg, "/r"))
	cfg.Run.Policy = "openvla"
	require.Equal(t, "srpo run --config /r/srpo.toml --checkpoint /r --out /r-srpo", nextRun(cfg, "/r"))
	cfg.Offline.Data = "attempts"
	require.Equal(t, "srpo run --config /r/srpo.toml --checkpoint /r --offline '' --out /r-srpo", nextRun(cfg, "/r"))
}
