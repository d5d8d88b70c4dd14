package nearest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTo(t *testing.T) {
	known := []string{"tabletop", "libero", "libero-plus"}
	require.Equal(t, "libero", To("libreo", known))
	require.Equal(t, "libero-plus", To("libero_plus", known))
	require.Equal(t, "tabletop", To("table-top", known))
	require.Equal(t, "", To("gymnasium", known))
	require.Equal(t, "", To("x", nil))
}

func TestMisspelt(t *testing.T) {
	known := []string{"groups", "group_size", "record_every", "lr", "kind"}
	for in, want := range map[string]string{"group": "groups", "group_siz": "group_size", "gruop_size": "group_size",
		"Groups": "groups", "recordevery": "record_every",
		"rl": "lr", "size": "group_size", "banana": "", "x": "", "": "", "king": "kind"} {
		require.Equal(t, want, To(in, known), in)
	}
}
