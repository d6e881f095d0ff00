"""The one-command demonstration: photos in, two ways of learning, one picture and one table out."""
