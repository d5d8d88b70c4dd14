package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestInitRequiresTheRelease checks that a released srpo writes a Go plugin that requires the release, without a
// replace directive.
func TestInitRequiresTheRelease(t *testing.T) {
	defer func(before func() string) { version = before }(version)
	version = func() string { return "v1.2.3" }
	var out bytes.Buffer
	dir := filepath.Join(t.TempDir(), "my-env")
	require.NoError(t, (&app{out: &out}).init(dir, "go", "env", "", "", ""))
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	require.Contains(t, string(mod), "\nrequire github.com/srpo-dev/srpo v1.2.3\n")
	require.NotContains(t, string(mod), "replace")
	require.Contains(t, out.String(), "go mod tidy")
}
