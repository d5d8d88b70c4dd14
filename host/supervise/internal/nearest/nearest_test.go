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
