# batch: many small experiments in one run, for tests that compare processors.

BATCH := batch
BATCH_OUT := $(OUT)/batch
BATCH_PARTS := boot main
BATCH_OBJECTS := $(BATCH_PARTS:%=$(BATCH_OUT)/%.o)

$(BATCH_OUT)/%.o: $(BATCH)/%.c Makefile $(BATCH)/batch.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(BATCH_OUT)/%.o: $(BATCH)/%.S Makefile $(BATCH)/batch.mk
	@mkdir -p $(@D)
	@echo '  CC  $<'
	$(Q)$(CC) $(GUEST_FLAGS) -MMD -c -o $@ $<

$(OUT)/batch.elf: $(BATCH_OBJECTS) $(BATCH)/batch.ld
	@echo '  LD  $@'
	$(Q)$(LD) $(GUEST_LDFLAGS) -T $(BATCH)/batch.ld -o $@ $(BATCH_OBJECTS)

-include $(BATCH_OBJECTS:.o=.d)
