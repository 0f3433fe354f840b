"""The wire of Stallwatch, version 1: code generated from the .proto files beside it by scripts/generate-proto."""
