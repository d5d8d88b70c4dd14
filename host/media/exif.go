package media

import (
	"bytes"
	"encoding/binary"
)

// exifOrientation returns the EXIF orientation of a jpeg or png file, 1 to 8; 1 if there is none.
func exifOrientation(data []byte) int {
	switch {
	case bytes.HasPrefix(data, []byte{0xff, 0xd8}):
		return tiffOrientation(jpegExif(data))
	case bytes.HasPrefix(data, []byte("\x89PNG\r\n\x1a\n")):
		return tiffOrientation(pngExif(data))
	}
	return 1
}

// jpegExif returns the content of the first Exif segment before the image data; nil if there is none.
func jpegExif(data []byte) []byte {
	const app1, startOfScan = 0xe1, 0xda
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker := data[at+1]
		if marker == 0xff { // padding
			at++
			continue
		}
		end := at + 2 + int(binary.BigEndian.Uint16(data[at+2:]))
		if marker == startOfScan || end > len(data) {
			break
		}
		if body, ok := bytes.CutPrefix(data[at+4:max(at+4, end)], []byte("Exif\x00\x00")); ok && marker == app1 {
			return body
		}
		at = max(at+4, end)
	}
	return nil
}

// pngExif returns the content of the eXIf chunk; nil if there is none.
func pngExif(data []byte) []byte {
	for at := 8; at+12 <= len(data); {
		size := int(binary.BigEndian.Uint32(data[at:]))
		if size > len(data)-at-12 {
			break
		}
		if string(data[at+4:at+8]) == "eXIf" {
			return data[at+8 : at+8+size]
		}
		at += 12 + size
	}
	return nil
}

// tiffOrientation returns the orientation in the first directory of a TIFF structure; 1 if there is none.
func tiffOrientation(data []byte) int {
	const orientation, entrySize = 0x0112, 12
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case len(data) < 8:
		return 1
	case string(data[:2]) == "MM":
		order = binary.BigEndian
	}
	at := int(order.Uint32(data[4:]))
	if at > len(data)-2 {
		return 1
	}
	count := int(order.Uint16(data[at:]))
	for at += 2; count > 0 && at+entrySize <= len(data); count, at = count-1, at+entrySize {
		if order.Uint16(data[at:]) == orientation {
			if v := int(order.Uint16(data[at+8:])); v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
	}
	return 1
}

// upright turns and flips a picture, uint8 [height, width, 3], as its EXIF orientation says.
func upright(height, width int, rgb []byte, orientation int) (h, w int, out []byte) {
	if orientation <= 1 {
		return height, width, rgb
	}
	transposed := orientation >= 5
	// Whether the pixels that are shown at the right, and at the bottom, are stored first.
	mirrored := orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7
	flipped := orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8
	h, w = height, width
	if transposed {
		h, w = width, height
	}
	out = make([]byte, 0, len(rgb))
	for y := range h {
		for x := range w {
			p, q := x, y // shown where x, y are shown without mirroring
			if mirrored {
				p = w - 1 - x
			}
			if flipped {
				q = h - 1 - y
			}
			if transposed {
				p, q = q, p
			}
			i := (q*width + p) * 3
			out = append(out, rgb[i:i+3]...)
		}
	}
	return h, w, out
}
